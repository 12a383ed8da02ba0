"""Weighted means that stay exact through masks, padding, devices and accumulation, and their way out of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.contracts.components import Counted
from framework.errors import ConfigError
from framework.trees import PyTree, is_key


class WeightedMean(NamedTuple):
    """A mean before its division: means are added leaf by leaf, and divided once, at the end."""

    total: jax.Array  # float [...], weighted sum over examples
    count: jax.Array  # float32 [], summed weight # pyright: ignore[reportIncompatibleMethodOverride]


class Collected(NamedTuple):
    """The statistics of single examples, kept for a result that no sum can tell.

    Attributes:
      total: float [B, ...], one statistic for each example; of members [members, B, ...].
      count: float32 [B], their weights; of members [members, B].
    """

    total: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]


RESERVED = ("loss", "learning_rate", "loss_scale", "skipped", "live_members", "examples_per_second", "step")
"""Names of the core's own scalars, which no metric's tag may take."""


def check_tag(tag: str) -> None:
    """Raise ConfigError if a metric's tag would replace a scalar of the core's, or look like one of its parts."""
    if tag in RESERVED or "/" in tag:
        why = f"the run logs its own '{tag}'" if tag in RESERVED else "a tag holds no '/'"
        raise ConfigError(f"{why}; choose another tag, such as {tag.replace('/', '_')}_metric.", key=f"metrics.{tag}")


def weighted(values: jax.Array | Counted, weights: jax.Array | None) -> WeightedMean:
    """Sum per-example values by weight.

    Args:
      values: [B, ...], or `Counted`.
      weights: [B], or None for weight 1 each; [B, T] only where `Counted` values hold them already. Values of weight 0
        do not count, not even if they are not finite.

    Raises: ConfigError if the values are not one per example.
    """
    if isinstance(values, Counted):
        given = None if weights is None or weights.ndim > 1 else weights.astype(jnp.float32)
        values, counts = values
        weights = counts if given is None else counts * given
    elif weights is not None and weights.ndim > 1:
        raise ConfigError(
            f"weights are {list(weights.shape)}, and a loss or metric returned one value per example, which leaves the "
            "weights of positions out; return Counted, as framework.api has it, or give weights [B]."
        )
    if values.ndim == 0:
        raise ConfigError("a loss or metric returned one number, expected one value per example: [B], not its mean.")
    if jnp.iscomplexobj(values):
        raise ConfigError(f"a loss or metric returned {values.dtype}, expected real values, as of real outputs.")
    values = values.astype(jnp.float32)  # a sum in fewer bits, or of booleans, would be wrong
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


def collected(values: jax.Array, weights: jax.Array | None) -> Collected:
    """Keep the statistics [B, ...] of examples with their weights [B]; weights [B, T] are the metric's own affair."""
    if weights is None or weights.ndim > 1:
        weights = jnp.ones(values.shape[0], jnp.float32)
    return Collected(values.astype(jnp.float32), weights.astype(jnp.float32))


def over_devices(mean: Any, axis: str | None) -> Any:
    """Sum a mean over a mapped axis, or put what was collected side by side, in the order of the devices."""
    if axis is None:
        return mean
    if isinstance(mean, Collected):
        return gathered(mean, axis)
    return jax.lax.psum(mean, axis)


def gathered(tree: PyTree, axis: str | None) -> PyTree:
    """Return the leaves [B, ...] of all devices side by side, in the order of the devices; all of them without an axis.

    Args:
      tree: the rows of this device; typed keys are allowed.
      axis: the mapped axis that cuts the batch.
    """

    def whole(leaf: jax.Array) -> jax.Array:
        if is_key(leaf):
            return jax.random.wrap_key_data(whole(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        rows = leaf.astype(jnp.int32) if leaf.dtype == jnp.bool_ else leaf
        # By a sum, which every device ends with; what `all_gather` returns is not known to be the same on all.
        each = jnp.zeros((jax.lax.axis_size(axis), *rows.shape), rows.dtype).at[jax.lax.axis_index(axis)].set(rows)
        return jax.lax.psum(each, axis).reshape(-1, *rows.shape[1:]).astype(leaf.dtype)

    return tree if axis is None else jax.tree.map(whole, tree)


def own_rows(tree: PyTree, axis: str | None) -> PyTree:
    """Return this device's rows of leaves [B, ...] that every device has whole: the counterpart of `gathered`."""

    def part(leaf: jax.Array) -> jax.Array:
        each = leaf.shape[0] // jax.lax.axis_size(axis)
        return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(axis) * each, each)

    return tree if axis is None else jax.tree.map(part, tree)


class Sums:
    """Means of batches on the host, in float64, so that the order of batches hardly matters."""

    def __init__(self) -> None:
        self._sums: dict[str, WeightedMean] = {}
        self._kept: dict[str, list[Collected]] = {}

    def add(self, means: Mapping[str, Any]) -> None:
        """Add the means of one batch; waits for the devices."""
        for name, mean in jax.device_get(dict(means)).items():
            if isinstance(mean, Collected):
                self._kept.setdefault(name, []).append(mean)
                continue
            total, count = (np.asarray(part, np.float64) for part in mean)
            if name in self._sums:
                total, count = total + self._sums[name].total, count + self._sums[name].count
            self._sums[name] = WeightedMean(total, count)  # pyright: ignore[reportArgumentType]

    def means(self) -> dict[str, Any]:
        """Return all means, with what was collected joined along the examples, the last axis of `count`."""
        joined = {name: _joined(parts) for name, parts in self._kept.items()}
        return {**self._sums, **joined}


def _joined(parts: list[Collected]) -> Collected:
    axis = np.ndim(parts[0].count) - 1
    return Collected(*(np.concatenate(each, axis=axis) for each in zip(*parts, strict=True)))  # pyright: ignore


Layout = tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
"""Name, shape of the total, shape of the count; by name."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Totals and counts of all metrics in one array, since each output of a compiled call costs time.

    Attributes:
      values: float32 [n], or [steps, n] of several steps.
      layout: names and shapes; static, so that it comes out of a compiled function beside the values.
    """

    values: Any
    layout: Layout = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bits:
    """A typed key, or an array of them, as plain numbers.

    Attributes:
      data: uint32 [..., n].
      impl: the random number generator of the key; static.
    """

    data: Any
    impl: Any = field(metadata={"static": True})


def pack_outputs(step: Callable[..., Any]) -> Callable[..., Any]:
    """Let a step take and return a state whose keys are `Bits`, and return its metrics as one `Packed` array."""

    def run(state: Any, batch: Any, axis: str | None = None) -> tuple[Any, Packed]:
        state, means = step(wrap_keys(state), batch, axis)
        return unwrap_keys(state), pack(means)

    return run


def unwrap_keys(tree: Any) -> Any:
    """Replace typed keys by `Bits`: JAX makes a typed key in Python whenever a compiled call returns one."""

    def bits(leaf: Any) -> Any:
        return Bits(jax.random.key_data(leaf), jax.random.key_impl(leaf)) if is_key(leaf) else leaf

    return jax.tree.map(bits, tree)


def wrap_keys(tree: Any) -> Any:
    """Replace `Bits` by typed keys."""

    def key(leaf: Any) -> Any:
        return jax.random.wrap_key_data(leaf.data, impl=leaf.impl) if isinstance(leaf, Bits) else leaf

    return jax.tree.map(key, tree, is_leaf=lambda node: isinstance(node, Bits))


def pack(means: Mapping[str, Any]) -> Packed:
    """Put all means into one array."""
    named = sorted(means.items())
    layout = tuple((name, jnp.shape(total), jnp.shape(count)) for name, (total, count) in named)
    flat = [jnp.ravel(part).astype(jnp.float32) for _, mean in named for part in mean]
    return Packed(jnp.concatenate(flat), layout)


def unpack(packed: Packed) -> dict[str, WeightedMean]:
    """Bring the means to the host, with the steps as first axis if there are several."""
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
