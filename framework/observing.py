"""Values inside a step by the path of their layer: names for the compiler, an observer of a step run op by op, and the
outputs of layers as values of a compiled function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp

from framework.contracts.components import Array
from framework.trees import PyTree

Part = Literal["params", "inputs", "outputs"]
Direction = Literal["forward", "backward"]


class Seen(NamedTuple):
    """A value inside a step.

    Attributes:
      path: of the layer, such as "model/1_Dense"; "loss" and "optimizer" are layers too.
      part: the layer's parameters, inputs or outputs. Inputs of the optimizer are gradients, its outputs updates.
      direction: "forward" for the value itself, "backward" for its gradient.
      device: which part of the batch, where a step is mapped over several; else None.
      leaves: the floating-point arrays of the value.
    """

    path: str
    part: Part
    direction: Direction
    device: int | None
    leaves: list[Any]


Observer = Callable[[Seen], None]
Collector = Callable[[str, Part, list[Any]], None]

_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
_collector: ContextVar[Collector | None] = ContextVar("collector", default=None)
_path: ContextVar[tuple[str, ...]] = ContextVar("path", default=())


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Name all operations inside the context after a layer, below the layers around it.

    The compiler carries the name into its programs, profiles and messages, as `jax.named_scope` does. It changes no
    number.
    """
    with below(name), jax.named_scope(name):
        yield


@contextmanager
def below(name: str) -> Iterator[None]:
    """Let the paths of layers inside the context begin with a name, which the compiler is not told."""
    token = _path.set((*_path.get(), name))
    try:
        yield
    finally:
        _path.reset(token)


def observed(part: Part, value: PyTree) -> PyTree:
    """Return a value of the layer around as it is, and show it and its gradient to the observer, if there is one.

    It costs a compiled step nothing: without an observer nothing is added to it.
    """
    observer, collector = _observer.get(), _collector.get()
    if observer is None and collector is None:
        return value
    path, (leaves, structure) = "/".join(_path.get()), jax.tree.flatten(value)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    if collector is not None:
        collector(path, part, [leaves[i] for i in places])
    if observer is None:
        return value

    def show(direction: Direction, floats: list[Any]) -> None:
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in floats):
            return observer(Seen(path, part, direction, None, floats))
        calls: list[int] = []  # a step that is mapped over devices shows the part of each, in their order

        def call(*arrays: Any) -> None:
            calls.append(len(calls))
            observer(Seen(path, part, direction, calls[-1], list(arrays)))

        jax.debug.callback(call, *floats)

    @jax.custom_vjp
    def identity(floats: list[Any]) -> list[Any]:
        show("forward", floats)
        return floats

    def forward(floats: list[Any]) -> tuple[list[Any], None]:
        show("forward", floats)
        return floats, None

    def backward(_: None, gradients: list[Any]) -> tuple[list[Any]]:
        show("backward", gradients)
        return (gradients,)

    identity.defvjp(forward, backward)
    if places:
        for i, leaf in zip(places, identity([leaves[i] for i in places]), strict=True):
            leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Show an observer all values of layers inside the context, where functions run op by op: nothing is compiled."""
    token = _observer.set(observer)
    try:
        with jax.disable_jit():
            yield
    finally:
        _observer.reset(token)


def layer_outputs(function: Callable[..., Any], *args: Any, part: Part = "outputs") -> dict[str, list[Array]]:
    """Return the outputs of the layers, losses and metrics that run in a function, by path: floating-point arrays.

    A layer that runs several times has the arrays of each. The call may be traced, as by `jax.jit`. Values inside
    programs of the function's own (`jit`, `vmap`, `scan`, `checkpoint`, a gradient) cannot leave these: they are left
    out.

    Args:
      part: what to return of each: outputs come in the order in which layers end, inputs in that in which they begin.
    """
    found: dict[str, list[Array]] = {}
    level = jax.extend.core.get_opaque_trace_state()

    def collect(path: str, which: Part, leaves: list[Any]) -> None:
        if which == part and leaves and jax.extend.core.get_opaque_trace_state() == level:
            found.setdefault(path, []).extend(leaves)

    token = _collector.set(collect)
    try:
        function(*args)
    finally:
        _collector.reset(token)
    return found


def is_collected() -> bool:
    """Tell if outputs of layers are collected: no layer should then run in a loop or a program of its own."""
    return _collector.get() is not None
