"""Operations of a traced step, one after the other, with the layer that each belongs to and its cost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core

from framework_inspect.flops import flops_of

INLINED = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call")
INLINED += ("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin")
"""Primitives that call one program once."""

BOOKKEEPING = ("rematted_computation", "checkpoint")
"""Scopes that JAX itself adds."""

Ids = tuple[int, ...]


class Operation(NamedTuple):
    """One primitive operation, outside of any call.

    Attributes:
      path: scopes around it, such as ("1_serial", "0_Dense"); () outside of all layers.
      primitive: its name, such as "dot_general".
      is_backward: it belongs to the gradient, and was made by transposing a forward operation.
      times: how often a step runs it, where the loops around it tell.
      flops: floating-point operations of all times together.
      inputs: numbers of the values that it reads.
      outputs: numbers of the values that it makes.
      shapes: of its outputs, `jax.core.ShapedArray` each.
      equation: the operation as JAX has it.
    """

    path: tuple[str, ...]
    primitive: str
    is_backward: bool
    times: int
    flops: float
    inputs: Ids
    outputs: Ids
    shapes: tuple[Any, ...]
    equation: Any


class Trace(NamedTuple):
    """A traced function, with all calls inlined.

    Attributes:
      inputs: numbers of the values that the function is given, leaf by leaf.
      operations: in the order in which they were traced.
      outputs: numbers of the values that the function returns.
      has_open_loops: it holds a loop whose number of rounds the program does not tell; such a loop counts once.
    """

    inputs: Ids
    operations: list[Operation]
    outputs: Ids
    has_open_loops: bool


def traced(function: Callable[..., Any], *shapes: Any) -> Trace:
    """Trace a function on shapes, and list its operations; nothing is compiled."""
    return trace_of(jax.make_jaxpr(function)(*shapes))


def trace_of(closed: Any) -> Trace:
    """List the operations of a closed jaxpr."""
    walk = _Walk()
    inputs = tuple(next(walk.numbers) for _ in closed.jaxpr.invars)
    operations: list[Operation] = []
    outputs = walk.into(closed.jaxpr, inputs, _Place((), False, 1), operations)
    return Trace(inputs, operations, outputs, walk.has_open_loops)


class _Place(NamedTuple):
    """Surroundings of a program: the scopes around its call, the direction, and the rounds of the loops."""

    path: tuple[str, ...]
    is_backward: bool
    times: int


class _Walk:
    """Numbers for values, which are unique over all programs that a step calls."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.has_open_loops = False

    def into(self, jaxpr: Any, inputs: Sequence[int], place: _Place, operations: list[Operation]) -> Ids:
        """Append the operations of a program that is given values by number; return the numbers of its results."""
        known: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))

        def number(var: Any) -> int:
            if isinstance(var, jax.extend.core.Literal):
                return -1
            return known.setdefault(var, next(self.numbers)) if var not in known else known[var]

        for equation in jaxpr.eqns:
            given = tuple(map(number, equation.invars))
            name, here = equation.primitive.name, _placed(place, equation)
            inner = list(jax.extend.core.jaxprs_in_params(equation.params))
            if name in INLINED and len(inner) == 1:
                results = self.into(inner[0], given[len(given) - len(inner[0].invars) :], here, operations)
                known.update(zip(equation.outvars, results, strict=True))
            elif inner:
                made = tuple(map(number, equation.outvars))
                results = self._loop(equation, inner, given, here, operations)
                operations.append(_operation(equation, here, (*given, *results), made, 0.0))
            else:
                made = tuple(map(number, equation.outvars))
                operations.append(_operation(equation, here, given, made, flops_of(equation)))
        return tuple(map(number, jaxpr.outvars))

    def _loop(self, equation: Any, inner: list[Any], given: Ids, here: _Place, operations: list[Operation]) -> Ids:
        """Append the operations of a loop's body, or of the branch that costs most; return the numbers of the results.

        The body of a scan, a mapped program and a branch read what the loop is given, in order. The values of a while
        loop are not followed.
        """
        name = equation.primitive.name
        self.has_open_loops |= name == "while"
        inside = here._replace(times=here.times * (equation.params["length"] if name == "scan" else 1))
        programs: list[tuple[Ids, list[Operation]]] = []
        for program in inner:
            count, made = len(program.invars), []
            follows = name != "while" and count == len(given) - (name == "cond")
            inputs = given[len(given) - count :] if follows else [next(self.numbers) for _ in range(count)]
            programs.append((self.into(program, inputs, inside, made), made))
        if name == "cond":
            programs = [max(programs, key=lambda each: sum(operation.flops for operation in each[1]))]
        for _, made in programs:
            operations.extend(made)
        return tuple(number for results, _ in programs for number in results)


def _operation(equation: Any, here: _Place, given: Ids, made: Ids, flops: float) -> Operation:
    shapes = tuple(var.aval for var in equation.outvars)
    name, flops = equation.primitive.name, flops * here.times
    return Operation(here.path, name, here.is_backward, here.times, flops, given, made, shapes, equation)


def _placed(place: _Place, equation: Any) -> _Place:
    """Read the scopes that an equation adds to those around its program."""
    path: list[str] = []
    is_backward = place.is_backward
    for part in equation.source_info.name_stack.stack:
        if type(part).__name__ == "Transform":
            is_backward |= part.name == "transpose"
            # The transposed call of a remat names its layer twice, once for each derivative.
            path = [] if part.name in ("jvp", "transpose") else path
        elif part.name not in BOOKKEEPING and re.fullmatch(r"[\w.-]+(/[\w.-]+)*", part.name):
            path += part.name.split("/")
    return _Place((*place.path, *path), is_backward, place.times)


def outputs_by_path(trace: Trace) -> dict[tuple[str, ...], list[tuple[int, Any]]]:
    """Return for each scope how often it makes which values that leave it: numbers and shapes, in order.

    A value leaves a scope if an operation outside of it reads it, or if the function returns it.
    """
    readers: dict[int, list[tuple[str, ...] | None]] = {number: [None] for number in trace.outputs}
    for operation in trace.operations:
        for number in operation.inputs:
            readers.setdefault(number, []).append(operation.path)
    leaving: dict[tuple[str, ...], list[tuple[int, Any]]] = {}
    for operation in trace.operations:
        for depth in range(1, len(operation.path) + 1):
            scope = operation.path[:depth]
            found = leaving.setdefault(scope, [])
            for number, shape in zip(operation.outputs, operation.shapes, strict=True):
                if any(reader is None or reader[:depth] != scope for reader in readers.get(number, [])):
                    found.append((operation.times, shape))
    return leaving


def flops_by_path(operations: Sequence[Operation], is_backward: bool) -> Mapping[tuple[str, ...], float]:
    """Sum the operations of one direction over each scope and all scopes within it; () has the sum of all."""
    sums: dict[tuple[str, ...], float] = {}
    for operation in operations:
        if operation.is_backward == is_backward:
            for scope in _around(operation.path):
                sums[scope] = sums.get(scope, 0.0) + operation.flops
    return sums


def _around(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for depth in range(len(path) + 1):
        yield path[:depth]
