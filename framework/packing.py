"""What goes through a compiled step, slimmed: each of its outputs costs the host microseconds, a typed key dozens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.tasks.metrics import Mean

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
    """A typed key, or an array of them, as plain numbers.

    Attributes:
      data: uint32 [..., n].
      impl: whose key it is; static.
    """

    data: Any
    impl: Any = field(metadata={"static": True})


def slim(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same of a state whose keys are `untyped`, with the means packed."""

    def run(state: Any, batch: Any, axis: str | None = None) -> tuple[Any, Packed]:
        state, means = step(typed(state), batch, axis)
        return untyped(state), pack(means)

    return run


def untyped(tree: Any) -> Any:
    """The tree with its keys as `Bits`: JAX makes a typed key in Python, whenever a compiled call returns one."""

    def bits(leaf: Any) -> Any:
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return Bits(jax.random.key_data(leaf), jax.random.key_impl(leaf)) if is_key else leaf

    return jax.tree.map(bits, tree)


def typed(tree: Any) -> Any:
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


def unpack(packed: Packed) -> dict[str, Mean]:
    """The means on the host, with the steps as first axis if there are several."""
    values = np.asarray(jax.device_get(packed.values))
    found, start = {}, 0
    for name, *shapes in packed.layout:
        parts = []
        for shape in shapes:
            stop = start + math.prod(shape)
            parts.append(values[..., start:stop].reshape((*values.shape[:-1], *shape)))
            start = stop
        found[name] = Mean(*parts)
    return found
