"""Random streams of an experiment, read from the traces of its init and its step: `framework keys +experiment=…`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.extend.core

from framework.config.compose import Config
from framework.console.tables import text_table
from framework.experiment import Experiment
from framework.tasks.tracing import SEED
from framework.trees import is_key, named_leaves
from framework_bench.timing import opened
from framework_inspect.costs import feed_of
from framework_inspect.operations import Operation, Trace, traced

PASSING = frozenset(
    [
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "dynamic_slice",
        "gather",
        "pvary",
        "random_wrap",
        "reshape",
        "squeeze",
        "transpose",
        "unstack",
    ]
)
"""Primitives whose result is a key, or a number, that they were given."""

Name = tuple[str, ...]


class Stream(NamedTuple):
    """Numbers that are drawn from one key.

    Attributes:
      name: the way from the root, such as ("root", "step", "model", "3_Dropout").
      layer: scope in which they are drawn, such as "3_Dropout"; "" outside of all.
      numbers: how many are drawn in one call of init, or in one step.
    """

    name: Name
    layer: str
    numbers: int


class Streams(NamedTuple):
    """All streams of an experiment.

    Attributes:
      experiment: its name.
      seed: of the root key.
      members: number of root keys.
      streams: those of init, then those of a step, in the order in which they are drawn.
    """

    experiment: str
    seed: int
    members: int
    streams: tuple[Stream, ...]


def keys(config: Config) -> Streams:
    """Trace init and the train step of an experiment, and list the random streams in them; nothing is compiled.

    Raises: FrameworkError, as a run would.
    """
    with opened(config) as (experiment, _):
        return streams_of(experiment, config.name)


def streams_of(experiment: Experiment, name: str = "") -> Streams:
    """List the random streams of an experiment as its strategy runs it, with a name for the device where it has one."""
    init = traced(experiment.init, SEED)
    call = experiment.strategy.train(experiment.task.train_step, 0)
    feed = feed_of(experiment)
    step = traced(call, experiment.shapes, feed)
    given: dict[int, Name] = {}
    for number, (path, leaf) in zip(step.inputs, named_leaves((experiment.shapes, feed)), strict=True):
        if path == "0/step":
            given[number] = ("step",)
        elif is_key(leaf):
            given[number] = ("root",)
    members = 1 if experiment.members is None else experiment.members.size
    found = (*drawn(init, {}), *drawn(step, given))
    return Streams(name, experiment.settings.seed, members, found)


def drawn(trace: Trace, given: Mapping[int, Name]) -> tuple[Stream, ...]:
    """Follow keys through a program, and list what is drawn from them.

    Args:
      given: names of the values that the program is given: keys, and the number of the step.
    """
    names: dict[int, Name] = dict(given)
    found: dict[tuple[Name, str], int] = {}
    for operation in trace.operations:
        for number, var in zip(operation.inputs, operation.equation.invars, strict=False):
            if _is_key(var) and number not in names:
                names[number] = ("root",)  # of members: their keys are constants of the program
        name = _named(operation, names)
        if name is not None and operation.primitive == "unstack":
            names.update({each: _part(name, index) for index, each in enumerate(operation.outputs)})
        elif name is not None:
            names.update(dict.fromkeys(operation.outputs, name))
        key = next((each for each in operation.inputs if each in names and names[each][0] == "root"), None)
        if key is not None and operation.primitive in ("random_bits", "random_gamma"):
            at = names[key], "/".join(operation.path)
            numbers = sum(math.prod(shape.shape) for shape in operation.shapes) * operation.times
            found[at] = found.get(at, 0) + numbers
    return tuple(Stream(name, layer, numbers) for (name, layer), numbers in found.items())


def text(found: Streams) -> str:
    """Write the streams as a tree, whose leaves say how many numbers are drawn, and in which layer."""
    rows, above = [("stream", "numbers", "drawn in")], ()
    for each in found.streams:
        shared = _common(each.name[:-1], above)
        rows += [("  " * depth + each.name[depth], "", "") for depth in range(shared, len(each.name) - 1)]
        rows.append(("  " * (len(each.name) - 1) + each.name[-1], f"{each.numbers:,}", each.layer or "–"))
        above = each.name
    several = f" and the {found.members - 1} that follow, one for each member" if found.members > 1 else ""
    lines = [
        f"{found.experiment}: root is the key of seed {found.seed}{several}; each name below is folded in",
        text_table(rows, right=(1,)),
        "data order: batch k is a function of (seed, k), apart from these keys",
    ]
    return "\n".join(lines)


def _common(left: Name, right: Name) -> int:
    """Count the parts with which both names begin."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    return sum(1 for _ in pairs)


def _named(operation: Operation, names: Mapping[int, Name]) -> Name | None:
    """Name what an operation makes of a named value; None if that is no key, and no number of a step or device."""
    known = [names[number] for number in operation.inputs if number in names]
    if operation.primitive == "random_seed":
        return ("root",)
    if operation.primitive == "axis_index":
        return ("device",)
    if not known:
        return None
    name = known[0]
    if operation.primitive == "random_fold_in":
        return (*name, _folded(operation, name, names))
    if operation.primitive == "random_split":
        return (*name, "split")
    if operation.primitive == "slice":
        return _part(name, operation.equation.params["start_indices"][-1])
    return name if operation.primitive in PASSING else None


def _part(name: Name, index: int) -> Name:
    """Name one key of those that a split made; of other values, a part has the name of the whole."""
    return (*name[:-1], f"split {index}") if name[-1] == "split" else name


def _is_key(var: Any) -> bool:
    return jax.dtypes.issubdtype(var.aval.dtype, jax.dtypes.prng_key)


def _folded(operation: Operation, name: Name, names: Mapping[int, Name]) -> str:
    """Name what is folded into a key: the step or the device, a scope that is entered, or a number."""
    data = operation.inputs[1]
    if data in names:
        return names[data][0]
    scope = operation.path[-1] if operation.path else ""
    if scope and scope not in name:
        return scope
    given: Any = operation.equation.invars[1]
    return str(given.val) if isinstance(given, jax.extend.core.Literal) else "each"
