"""Sliding windows over the spatial axes of [B, *spatial, C]: their number, and a reduction over each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax

from framework.api import Array, Shape
from framework.errors import ConfigError


def count_windows(
    in_shape: Shape, window: Sequence[int], strides: Sequence[int], padding: str, what: str
) -> tuple[int, ...]:
    """Count the positions of a window along each spatial axis of a shape [B, *spatial, C].

    Args:
      in_shape: shape over which the window slides.
      window: extent of the window along each spatial axis.
      strides: steps between two windows, one for each spatial axis.
      padding: "VALID" for windows that lie inside, "SAME" for ceil(size / stride) of them.
      what: name of the layer, for the error.

    Raises: ConfigError if the ranks do not fit, a number is not positive, or no window fits inside.
    """
    if len(in_shape) != len(window) + 2:
        axes = ", ".join(["B", *"DHW"[-len(window) :], "C"]) if len(window) <= 3 else f"{len(window) + 2} axes"
        raise ConfigError(f"{what} with a window {tuple(window)} expects inputs [{axes}], found shape {in_shape}.")
    if len(strides) != len(window) or min(*window, *strides, 1) < 1:
        raise ConfigError(
            f"{what} expects a window and strides, all positive and of one length, found {window}, {strides}."
        )
    spatial = in_shape[1:-1]
    if padding == "SAME":
        return tuple(-(-size // stride) for size, stride in zip(spatial, strides, strict=True))
    if any(extent > size for extent, size in zip(window, spatial, strict=True)):
        raise ConfigError(f"{what} has a window {tuple(window)} larger than its inputs {spatial}; use padding SAME.")
    return tuple((size - extent) // stride + 1 for size, extent, stride in zip(spatial, window, strides, strict=True))


def reduce_windows(
    inputs: Array,
    operation: Callable[[Array, Array], Array],
    identity: float,
    window: Sequence[int],
    strides: Sequence[int],
    padding: str,
) -> Array:
    """Reduce each window to one value, axis by axis, as an operation between strided slices.

    `lax.reduce_window` computes the same. But the gradient of its maximum, a select-and-scatter, takes more than half
    of a small CNN's step on a CPU, while slices are differentiated by padding. If values of a window tie for the
    maximum, they share the gradient here; with `lax.reduce_window` one of them gets all of it.

    Args:
      inputs: [B, *spatial, C].
      operation: an associative and commutative one, such as `lax.max` or `lax.add`.
      identity: neutral element of the operation, which fills the padding.
      window: extent of the window along each spatial axis.
      strides: steps between two windows, one for each spatial axis.
      padding: "VALID" or "SAME".

    Returns: [B, *windows, C].
    """
    counts = count_windows(inputs.shape, window, strides, padding, "a pool")
    for axis, (count, extent, stride) in enumerate(zip(counts, window, strides, strict=True), start=1):
        reach = (count - 1) * stride + 1
        missing = max(reach + extent - 1 - inputs.shape[axis], 0)
        edges = [(0, 0, 0)] * inputs.ndim
        edges[axis] = (missing // 2, missing - missing // 2, 0)
        padded = lax.pad(inputs, jnp.asarray(identity, inputs.dtype), edges) if missing else inputs
        slices = [lax.slice_in_dim(padded, i, i + reach, stride, axis) for i in range(extent)]
        inputs = functools.reduce(operation, slices)
    return inputs
