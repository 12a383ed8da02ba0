"""Weighted means that stay exact through masks, padding, devices and accumulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.errors import ConfigError


class WeightedMean(NamedTuple):
    """A mean before its division: merged by adding, divided once, at the end."""

    total: jax.Array  # float [...], weighted sum over examples
    count: jax.Array  # float32 [], summed weight # pyright: ignore[reportIncompatibleMethodOverride]


def weighted(values: jax.Array, weights: jax.Array | None) -> WeightedMean:
    """Sum per-example values by weight.

    Args:
      values: [B, ...].
      weights: [B], or None for weight 1 each. Values of weight 0 do not count, not even if they are not finite.

    Raises: ConfigError if the values are not one per example.
    """
    if values.ndim == 0:
        raise ConfigError("a loss or metric returned one number, expected one value per example: [B], not its mean.")
    values = values.astype(jnp.float32)  # a sum in few bits, or of booleans, would be another number
    if weights is None:
        return WeightedMean(values.sum(axis=0), jnp.full([], values.shape[0], jnp.float32))
    if values.shape[0] != weights.shape[0]:
        raise ConfigError(
            f"a loss or metric returned {values.shape[0]} values for a batch of {weights.shape[0]} examples."
        )
    spread = weights.astype(jnp.float32).reshape(weights.shape[0], *[1] * (values.ndim - 1))
    # The inner where keeps 0 * nan out of the sum; gradients stay clean too, since it selects before multiplying.
    total = (jnp.where(spread == 0, 0, values) * spread).sum(axis=0)
    return WeightedMean(total, weights.astype(jnp.float32).sum())


def merge(left: WeightedMean, right: WeightedMean) -> WeightedMean:
    """The mean of both sets of examples together."""
    return WeightedMean(left.total + right.total, left.count + right.count)


Layout = tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
"""Name, shape of the total, shape of the count; by name."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Totals and counts end to end.

    Attributes:
      values: float32 [n], or [steps, n] of several steps.
      layout: what they are; static, so that it comes out of a compiled function beside the values.
    """

    values: Any
    layout: Layout = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bits:
    """A wrap_keys key, or an array of them, as plain numbers.

    Attributes:
      data: uint32 [..., n].
      impl: whose key it is; static.
    """

    data: Any
    impl: Any = field(metadata={"static": True})


def pack_outputs(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same of a state whose keys are `unwrap_keys`, with the means packed."""

    def run(state: Any, batch: Any, axis: str | None = None) -> tuple[Any, Packed]:
        state, means = step(wrap_keys(state), batch, axis)
        return unwrap_keys(state), pack(means)

    return run


def unwrap_keys(tree: Any) -> Any:
    """The tree with its keys as `Bits`: JAX makes a wrap_keys key in Python, whenever a compiled call returns one."""

    def bits(leaf: Any) -> Any:
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return Bits(jax.random.key_data(leaf), jax.random.key_impl(leaf)) if is_key else leaf

    return jax.tree.map(bits, tree)


def wrap_keys(tree: Any) -> Any:
    """The tree with `Bits` as keys."""

    def key(leaf: Any) -> Any:
        return jax.random.wrap_key_data(leaf.data, impl=leaf.impl) if isinstance(leaf, Bits) else leaf

    return jax.tree.map(key, tree, is_leaf=lambda node: isinstance(node, Bits))


def pack(means: Mapping[str, Any]) -> Packed:
    """One array of all means."""
    named = sorted(means.items())
    layout = tuple((name, jnp.shape(total), jnp.shape(count)) for name, (total, count) in named)
    flat = [jnp.ravel(part).astype(jnp.float32) for _, mean in named for part in mean]
    return Packed(jnp.concatenate(flat), layout)


def unpack(packed: Packed) -> dict[str, WeightedMean]:
    """The means on the host, with the steps as first axis if there are several."""
    values = np.asarray(jax.device_get(packed.values))
    found, start = {}, 0
    for name, *shapes in packed.layout:
        parts = []
        for shape in shapes:
            stop = start + math.prod(shape)
            parts.append(values[..., start:stop].reshape((*values.shape[:-1], *shape)))
            start = stop
        found[name] = WeightedMean(*parts)
    return found
