"""The largest batch whose step fits into memory, and the speed of batches of other sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np

from framework.api import Batch
from framework.config.compose import Config
from framework.config.sizes import in_words
from framework.console.tables import narrowed, text_table
from framework.console.terminal import Say, fitted, silent
from framework.errors import ConfigError
from framework.experiment import Experiment
from framework.training import memory
from framework.training.chunks import is_resident
from framework_bench import timing
from framework_bench.bench import device_in_words

CLOSE = 1.05
"""The search ends when the smallest size that does not fit is at most so many times the largest that fits."""

ENOUGH = 1.1
"""A batch is worth its size if it trains so many times as many examples a second as a batch of half its size."""


class Row(NamedTuple):
    """A batch size that fits."""

    batch_size: int
    bytes: int  # need of its step
    ms: float
    examples_per_second: float


class Found(NamedTuple):
    """The result of `find-batch`.

    Attributes:
      experiment: name of the experiment.
      device: strategy, devices and batch size of the config, in words.
      batch_size: the largest that fits.
      budget: bytes that one device may hold.
      budget_from: the source of that number, in words.
      limited_by: "memory" or "training examples"; where a policy acts, the environments that the config has.
      rows: the sizes that were timed, the smallest first.
    """

    experiment: str
    device: str
    batch_size: int
    budget: int
    budget_from: str
    limited_by: str
    rows: tuple[Row, ...]


class Candidates:
    """Batches of any size, made of the examples of one batch, and the memory that their steps need."""

    def __init__(self, experiment: Experiment, held: timing.Held, budget: int) -> None:
        self._experiment, self._held, self._budget = experiment, held, budget
        self._batch = next(experiment.batches.train(experiment.settings.seed))
        own = experiment.members is not None and experiment.members.order == "own"
        self._axis = 1 if own else 0  # of examples; members with orders of their own stand before it
        self.first = jax.tree.leaves(self._batch)[0].shape[self._axis]
        train = experiment.settings.train
        self.unit = experiment.strategy.devices * train.accumulate
        self.most = max(experiment.data.steps_per_epoch * self.first // self.unit, 1) * self.unit
        acts = "environment" in experiment.config
        self.limit = "the config's own environments; begin with more" if acts else "training examples"
        self._calls = timing.steps_per_call(experiment, held)
        self._resident = is_resident(experiment)
        self.needs: dict[int, int] = {}

    def batch(self, size: int) -> Batch:
        """Make a batch of `size` examples: those of the first batch, over and over."""
        rows = np.arange(size) % self.first
        return jax.tree.map(lambda leaf: np.take(leaf, rows, axis=self._axis), self._batch)

    def fits(self, size: int) -> bool:
        """Ask the compiler whether a step with so many examples fits; the step is not run."""
        beside = self._beside(size)
        if beside <= self._budget:
            call = self._experiment.strategy.train(self._experiment.task.train_step, 0)
            try:
                batch = timing.on_devices(self._experiment, self.batch(size))
                self.needs[size] = beside + memory.needed(call, self._held.state, batch)
            except Exception as error:
                if not memory.is_exhausted(error):
                    raise
        return self.needs.get(size, self._budget + 1) <= self._budget

    def time(self, size: int, seconds: float) -> Row | None:
        """Time steps of a size, with the data on the devices; None if memory runs out after all."""
        try:
            timed = timing.bare(self._experiment, self._held, self.batch(size))
            taken = timing.interleaved({"step": timed}, seconds)["step"]
        except Exception as error:
            if not memory.is_exhausted(error):
                raise
            return None
        return Row(size, self.needs[size], taken * 1000, size * self._members() / taken)

    def _beside(self, size: int) -> int:
        """Return the bytes on the devices beside the step's own: data that stay there, or the batches of a chunk."""
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(self._batch)) // self.first * size
        if self._calls == 1:
            return each
        examples = self._experiment.batches.in_memory()
        if self._resident and examples is not None:
            return sum(leaf.nbytes for leaf in jax.tree.leaves(examples.arrays))
        return self._calls * each // self._experiment.strategy.devices

    def _members(self) -> int:
        return 1 if self._experiment.members is None else self._experiment.members.size


def find(config: Config, budget: int | None = None, seconds: float = 1.0, say: Say = silent) -> Found:
    """Double the batch until its step does not fit, bisect between, and time some that fit.

    The compiler says what a step needs before it is run, so that nothing swaps and nothing is killed.

    Args:
      config: as composed; the search begins at its `data.batch_size`.
      budget: bytes that a device may hold; None takes nearly all it has, or on a CPU what is free.
      seconds: for the timing of each size.
      say: is told what goes on.

    Raises: ConfigError if not even the smallest batch fits, and as a run would.
    """
    say("building the experiment")
    with timing.opened(config) as (experiment, _):
        held = timing.Held(experiment)
        given, origin = memory.budget() if budget is None else (budget, "as given")
        candidates = Candidates(experiment, held, given)

        def fits(size: int) -> bool:
            say(f"asking the compiler about batches of {size}")
            return candidates.fits(size)

        largest = search(fits, candidates.first, candidates.unit, candidates.most)
        if largest is None:
            raise ConfigError(
                f"--memory: not even a batch of {candidates.unit} fits into {in_words(given)} ({origin}); "
                "take a smaller model, precision=bfloat16, or a strategy that cuts parameters, strategy=sharded."
            )
        rows = []
        for size in curve(largest, candidates.unit):
            if size not in candidates.needs and not candidates.fits(size):
                continue
            say(f"timing batches of {size}")
            row = candidates.time(size, seconds)
            rows += [row] if row else []
        limited = candidates.limit if largest == candidates.most else "memory"
        best = max(row.batch_size for row in rows)
        return Found(config.name, device_in_words(experiment), best, given, origin, limited, tuple(rows))


def search(fits: Callable[[int], bool], first: int, unit: int, most: int) -> int | None:
    """Return a multiple of `unit` up to `most` that fits, and is within `CLOSE` of the largest that does.

    Every size smaller than one that fits is taken to fit too.

    Returns: the size, or None if not even `unit` fits.
    """
    low, high = 0, most + unit  # the largest that fits, and the smallest that does not
    size = min(max(first // unit, 1) * unit, most)
    while low < most and high - low > unit and high > CLOSE * low:
        low, high = (size, high) if fits(size) else (low, size)
        middle = max((low + high) // 2 // unit, 1) * unit
        size = middle if high <= most else min(2 * low, most)
    return low or None


def curve(largest: int, unit: int) -> Iterator[int]:
    """Yield the sizes to time: the largest and its halves, at most eight, the smallest first."""
    sizes = {max(largest // 2**k // unit, 1) * unit for k in range(8)}
    yield from sorted(sizes)


def text(found: Found, width: int | None = None) -> str:
    """Write the report as a table and two sentences, no wider than a terminal of so many columns, if there is one."""
    lines = [("batch", "memory", "ms/step", "examples/s")]
    lines += [
        (f"{row.batch_size}", in_words(row.bytes), f"{row.ms:.4g}", f"{row.examples_per_second:,.0f}")
        for row in found.rows
    ]
    worth = worthwhile(found.rows)
    slower = f"beyond it, twice the batch gives less than {ENOUGH} times the examples a second"
    head = f"{found.experiment}, {found.device}; {in_words(found.budget)} of memory ({found.budget_from})"
    ends = [
        f"largest batch: data.batch_size={found.batch_size}, limited by {found.limited_by}",
        f"worth its size up to: data.batch_size={worth}" + (f"; {slower}" if worth < found.batch_size else ""),
    ]
    table = text_table(narrowed(lines, width), right=(0, 1, 2, 3))
    return "\n".join([fitted(head, width), table, *(fitted(line, width) for line in ends)])


def worthwhile(rows: tuple[Row, ...]) -> int:
    """Return the first size whose next larger one trains hardly more examples a second."""
    for row, larger in pairwise(rows):
        if larger.examples_per_second < ENOUGH * row.examples_per_second:
            return row.batch_size
    return rows[-1].batch_size
