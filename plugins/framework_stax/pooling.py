"""Maximum of windows, with a gradient that takes one pass over windows side by side."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from framework.api import Array
from framework_stax.windows import count_windows, reduce_windows

Ints = tuple[int, ...]

LARGEST = 16
"""Largest number of values in a window, since each is an operand; larger windows are reduced axis by axis."""


def max_windows(inputs: Array, window: Ints, strides: Ints, padding: str) -> Array:
    """Compute the maximum of each window.

    Small windows side by side store the position of their largest value in a byte, and give it the gradient in one
    pass; the inputs need not be kept. If values tie, the first gets all of the gradient, as in stock stax. If windows
    overlap, are large or padded, tied values share it. The gradient of `lax.reduce_window` is a select-and-scatter;
    without it the step of a small CNN takes about a third less time on a CPU.
    `python -m benchmarks w2 --contenders jit-stax,jit-layers` shows it together with the convolution. A relu costs
    least after the pool: it is the same function on fewer values, and the compiler makes one pass of both.

    Args:
      inputs: [B, *spatial, C].
      window: the window's extent along each spatial axis.
      strides: the steps between two windows, one for each spatial axis.
      padding: "VALID" or "SAME".

    Returns: [B, *windows, C].
    """
    count_windows(inputs.shape, window, strides, padding, "a pool")  # refuses windows that do not fit
    unpadded = padding == "VALID" or not any(map(operator.mod, inputs.shape[1:-1], window))
    if window == strides and unpadded and math.prod(window) <= LARGEST:
        return _side_by_side(inputs, window)
    return reduce_windows(inputs, lax.max, -jnp.inf, window, strides, padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _side_by_side(inputs: Array, window: Ints) -> Array:
    return functools.reduce(jnp.maximum, _corners(inputs, window))


@_side_by_side.defjvp
def _tangent(window: Ints, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (inputs,), (tangent,) = primals, tangents
    corners = _corners(inputs, window)
    largest = _side_by_side(inputs, window)
    last = len(corners) - 1
    winner = jnp.full(largest.shape, last, jnp.int8)
    for place in reversed(range(last)):
        winner = jnp.where(corners[place] == largest, jnp.int8(place), winner)
    winner = lax.optimization_barrier(winner)  # else the inputs are kept, and the winner found again at each place
    return largest, _of_winners(winner, tangent, window)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=2)  # keeps the winners, and no masks or zeros
def _of_winners(winner: Array, values: Array, window: Ints) -> Array:
    """Select from each window the value at the winner's place."""
    inner = tuple(range(2, 2 * len(window) + 1, 2))
    places = jnp.arange(math.prod(window), dtype=jnp.int8).reshape(_blocked((1,) * len(window), window, 1, 1))
    chosen = jnp.expand_dims(winner, inner) == places
    return jnp.where(chosen, _blocks(values, window), 0).sum(inner)


def _corners(inputs: Array, window: Ints) -> list[Array]:
    """Return the first value of each window, the second, and so on, as arrays [B, *windows, C]."""
    blocks = _blocks(inputs, window)
    places = itertools.product(*map(range, window))
    return [blocks[(slice(None), *itertools.chain(*((slice(None), i) for i in place)))] for place in places]


def _blocks(inputs: Array, window: Ints) -> Array:
    """Reshape [B, *spatial, C] to [B, windows, extent, windows, extent, …, C], without values in no window."""
    batch, *spatial, channels = inputs.shape
    counts = [size // extent for size, extent in zip(spatial, window, strict=True)]
    inside = [slice(0, count * extent) for count, extent in zip(counts, window, strict=True)]
    return inputs[(slice(None), *inside)].reshape(_blocked(counts, window, batch, channels))


def _blocked(counts: Sequence[int], window: Ints, batch: int, channels: int) -> Ints:
    return (batch, *itertools.chain(*zip(counts, window, strict=True)), channels)
