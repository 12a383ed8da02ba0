"""Branches by name: several heads on one input, several inputs side by side, and their outputs in one array."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from framework.api import Array, Model, PyTree, Shape
from framework.errors import ConfigError
from framework_stax.stack import parallel, serial


def heads(layers: Mapping[str, Sequence[Model]]) -> Model:
    """Several heads on the same inputs: [B, ...] to {name: outputs}, which losses and metrics take by `on_head`.

    Args:
      layers: of each head, such as `{digit: [{Dense: 10}], angle: [{Dense: 1}]}`.

    Raises: ConfigError without a head.
    """
    return _by_name(layers, "head", lambda tree, name: tree)


def branches(layers: Mapping[str, Sequence[Model]]) -> Model:
    """A branch of layers for each of several inputs: {name: [B, ...]} to {name: outputs}.

    Args:
      layers: of each input, by its name in the batch, such as `{image: [Flatten, {Dense: 64}], age: [{Dense: 8}]}`.

    Raises: ConfigError without a branch, or, when called, if the batch has no input of a branch's name.
    """

    def taken(tree: PyTree, name: str) -> PyTree:
        if not isinstance(tree, Mapping) or name not in tree:
            found = ", ".join(tree) if isinstance(tree, Mapping) else "a single array"
            raise ConfigError(f"there is no input '{name}': found {found}.")
        return tree[name]

    return _by_name(layers, "branch", taken)


def Concatenate(axis: int = -1) -> Model:
    """All outputs of branches in one array, joined along an axis.

    Args:
      axis: of the arrays, which are alike along all others; the features by default.
    """

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        shapes = jax.tree.leaves(in_shape, is_leaf=_is_shape)
        at = axis % len(shapes[0])
        return (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :]), (), ()

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[Array, PyTree]:
        return jnp.concatenate(jax.tree.leaves(inputs), axis), state

    return Model(init, apply)


def Flatten() -> Model:
    """Inputs [B, ...] as [B, F]; the leaves of nested ones are joined, in the order of their names or positions."""

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        shapes = jax.tree.leaves(in_shape, is_leaf=_is_shape)
        return (shapes[0][0], sum(math.prod(shape[1:]) for shape in shapes)), (), ()

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[Array, PyTree]:
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(inputs)]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1), state

    return Model(init, apply)


def _by_name(layers: Mapping[str, Sequence[Model]], noun: str, taken: Callable[[PyTree, str], PyTree]) -> Model:
    if not layers:
        raise ConfigError(f"expected at least one {noun}, such as {{a: [{{Dense: 10}}]}}.", key="layers")
    names = list(layers)
    side_by_side = parallel(*(serial(*each) for each in layers.values()), names=names)

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        shapes, params, state = side_by_side.init(key, [taken(in_shape, name) for name in names])
        return dict(zip(names, shapes, strict=True)), params, state

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[dict[str, PyTree], PyTree]:
        own = [taken(inputs, name) for name in names]
        outputs, after = side_by_side.apply(params, state, own, key=key, train=train)
        return dict(zip(names, outputs, strict=True)), after

    return Model(init, apply)


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)
