"""Memory that ran out: the largest buffers by path, what the compiler expected, the largest batch that would fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np

from framework.config.sizes import in_words
from framework.console.tables import text_table
from framework.distributed import processes
from framework.errors import ConfigError
from framework.experiment import Experiment
from framework.training import memory
from framework.trees import named_leaves, shape_text

LISTED = 8
"""Buffers that a report lists of each kind."""


class Buffer(NamedTuple):
    """An array: where it is, its dtype and shape, and its bytes."""

    path: str
    shape: str
    bytes: int


class Report(NamedTuple):
    """Facts about memory that ran out.

    Attributes:
      error: of XLA, in one line.
      state: the largest leaves of state and batch; of one device, the parts that it holds.
      values: the largest values inside the step, for the whole batch, by layer; the compiler keeps not all of them.
      expected: bytes of "state and batch", "results" and "temporaries" on a device, as the compiler plans; None where
        it cannot be asked.
      budget: bytes that a device may hold, and the source of that number; None where it is not known.
      batch_size: examples of a step.
      largest_batch: of whose step the compiler says that it fits; 0 if not even the smallest does, None if not known.
    """

    error: str
    state: list[Buffer]
    values: list[Buffer]
    expected: dict[str, int] | None
    budget: tuple[int, str] | None
    batch_size: int
    largest_batch: int | None


def examined(experiment: Experiment, error: Exception) -> Report:
    """Make the report. Steps are compiled for it without tuning, and none is run."""
    places = named_leaves({"state": experiment.places, "batch": experiment.batches.spec})
    held = [Buffer(path.removeprefix("state/"), shape_text(leaf), _part(leaf)) for path, leaf in places]
    step = jax.make_jaxpr(experiment.task.train_step)(experiment.shapes, experiment.batches.spec)
    expected, largest, budget = None, None, None
    if processes.count() == 1:  # others would have to compile too
        with suppress(ConfigError):
            budget = memory.budget()
        sizes = Sizes(experiment)
        expected = sizes.planned(experiment.batch_size)
        largest = None if budget is None or expected is None else sizes.largest(budget[0])
    line = str(error).splitlines()[0]
    return Report(line, _top(held), _top(_values(step.jaxpr)), expected, budget, experiment.batch_size, largest)


def told(report: Report) -> str:
    """Return a report in words and tables."""
    rows = [("largest buffers", "shape", "size")]
    rows += [(each.path, each.shape, in_words(each.bytes)) for each in report.state]
    rows += [("largest values of a step", "", "")]
    rows += [(each.path, each.shape, in_words(each.bytes)) for each in report.values]
    lines = [f"memory ran out: {report.error}", text_table(rows, right=[2])]
    if report.expected is not None:
        parts = ", ".join(f"{in_words(size)} {name}" for name, size in report.expected.items())
        lines.append(f"expected by the compiler, on each device: {parts}")
    if report.budget is not None:
        lines.append(f"there may be used: {in_words(report.budget[0])} ({report.budget[1]})")
    if report.largest_batch is not None:
        fits = f"data.batch_size={report.largest_batch}" if report.largest_batch else "none, not even of one example"
        lines.append(f"largest batch that fits, as the compiler plans: {fits}; it was {report.batch_size}")
    return "\n".join(lines)


class Sizes:
    """The memory of steps with batches of other sizes."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        members = experiment.members
        self._axis = 1 if members is not None and members.order == "own" else 0
        self._count = 1 if members is None else members.size
        self._unit = experiment.strategy.devices * experiment.settings.train.accumulate

    def planned(self, examples: int) -> dict[str, int] | None:
        """Return what the compiler plans for a step with so many examples, of all members; None if it cannot say."""
        experiment, size = self._experiment, examples // self._count

        def sized(leaf: Any) -> np.ndarray:
            shape = list(leaf.shape)
            shape[self._axis] = size
            return np.zeros(shape, leaf.dtype)

        call: Any = experiment.strategy.train(experiment.task.train_step, 0)
        if not memory.is_compiled(call):
            return None
        try:
            feed = experiment.strategy.feed(jax.tree.map(sized, experiment.batches.spec), 0)
            found = memory.planned(call, experiment.places, feed).memory_analysis()
        except Exception as error:
            if not memory.is_exhausted(error):
                raise
            return None
        return {
            "state and batch": found.argument_size_in_bytes,
            "results": found.output_size_in_bytes - found.alias_size_in_bytes,
            "temporaries": found.temp_size_in_bytes + found.generated_code_size_in_bytes,
        }

    def largest(self, budget: int) -> int | None:
        """Return the largest batch within a budget: halved until it fits, then raised on a line through two sizes."""
        size, needs = self._experiment.batch_size // self._count, dict[int, int]()
        while size >= self._unit:
            if (plan := self.planned(size * self._count)) is None:
                return None
            needs[size] = sum(plan.values())
            if needs[size] <= budget:
                break
            size = size // 2 // self._unit * self._unit
        if size < self._unit:
            return 0
        larger = min((each for each in needs if each > size), default=size)
        if larger == size:
            return size * self._count
        slope = (needs[larger] - needs[size]) / (larger - size)
        for share in (1, 0.9, 0.5):  # plans are no straight line
            wanted = int(size + share * (budget - needs[size]) / max(slope, 1.0)) // self._unit * self._unit
            plan = self.planned(wanted * self._count) if size < wanted < larger else None
            if plan is not None and sum(plan.values()) <= budget:
                return wanted * self._count
        return size * self._count


def _part(leaf: Any) -> int:
    """Return the bytes of an array on the device that holds most of it."""
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return int(np.prod(shape)) * leaf.dtype.itemsize


def _top(buffers: Iterable[Buffer]) -> list[Buffer]:
    """Return the largest buffers; of several of one layer and shape, one."""
    alone = {(each.path.partition(":")[0], each.shape): each for each in buffers}
    return sorted(alone.values(), key=lambda each: -each.bytes)[:LISTED]


def _values(jaxpr: Any, above: str = "") -> Iterator[Buffer]:
    """Yield the values that a program makes, by the layer that makes them, below the layer that calls it."""
    for equation in jaxpr.eqns:
        inner = list(jax.extend.core.jaxprs_in_params(equation.params))
        own = re.sub(r"\w+\(|\)", "", str(equation.source_info.name_stack))
        path = "/".join(name for name in (above, own) if name)
        for each in inner:
            yield from _values(each, path)
        for value in () if inner else equation.outvars:
            if hasattr(value.aval, "shape") and not jax.dtypes.issubdtype(value.aval.dtype, jax.dtypes.extended):
                size = int(np.prod(value.aval.shape)) * value.aval.dtype.itemsize
                yield Buffer(f"{path or 'step'}: {equation.primitive.name}", shape_text(value.aval), size)
