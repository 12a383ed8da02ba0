"""Convolution with gradients that are fast on CPUs, in single calls and inside compiled loops."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from framework.api import Array
from framework_stax.tiles import by_tiles

LAYOUT = ("NHWC", "HWIO", "NHWC")

TILE_BYTES = 2**22
"""Approximate size of the patches that are laid out at a time. Less makes loops of small products. More makes single
calls slower, which take their memory from the system each time."""

Pair = tuple[int, int]


def convolve(inputs: Array, kernel: Array, strides: Sequence[int], padding: str) -> Array:
    """Convolve images, as `lax.conv_general_dilated` does, with gradients of our own on CPUs.

    XLA's CPU backend has a fast kernel for the layout NHWC and HWIO only. The gradients that JAX derives have other
    layouts, and are 10 to 20 times slower inside a compiled loop. So a differentiated convolution, its value and both
    gradients, is computed here as products of matrices. It goes tile by tile through the batch, so that the patches of
    a tile stay in the cache; `serial` runs the layers after a convolution in the same tiles. In chunks, the step of a
    CNN of 3×3 kernels, 32 and 64 wide, takes less than four tenths of the time that it takes with stock layers:
    `python -m benchmarks w2 --contenders jit-stax,jit-layers,framework`. Narrow networks of large kernels, such as
    LeNet, gain nothing.

    Only terms with a tangent are written differently, in the form whose transpose is the fast one. So derivatives of
    every kind and order, `vmap`, `pmap` and `jax.checkpoint` work as for any function. GPUs and TPUs use the plain
    form. Both forms give the same values on every platform.

    Args:
      inputs: [B, H, W, in].
      kernel: [height, width, in, out], of the inputs' dtype.
      strides: steps between two positions, down and across.
      padding: "VALID" or "SAME".

    Returns: [B, rows, columns, out].
    """
    function = _convolve if jax.default_backend() == "cpu" else _plain
    return function(inputs, kernel, (strides[0], strides[1]), padding)


def _plain(inputs: Array, kernel: Array, strides: Pair, padding: str) -> Array:
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=LAYOUT)


_convolve = jax.custom_jvp(_plain, nondiff_argnums=(2, 3))


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _tangent(strides: Pair, padding: str, primals: Any, tangents: Any) -> tuple[Array, Any]:
    inputs, kernel = primals
    # Data have no tangent, and then no gradient is computed for them.
    known = [not isinstance(tangent, SymbolicZero) for tangent in tangents]
    terms = [pair for pair, there in zip([(tangents[0], kernel), (inputs, tangents[1])], known, strict=True) if there]
    return _by_patches([primals], strides, padding), _by_patches(terms, strides, padding)


def _by_patches(terms: Sequence[tuple[Array, Array]], strides: Pair, padding: str) -> Array:
    """Sum convolutions, each a product of patches with a kernel, tile after tile of the batch.

    Sums are float32 or wider. Patches are made again for the transpose (`jax.checkpoint`), since they are many times as
    large as the inputs.

    Args:
      terms: pairs of inputs [B, H, W, in] and a kernel [height, width, in, out], all of the same shapes.
      strides: steps between two positions, down and across.
      padding: "VALID" or "SAME".
    """
    (inputs, kernel), *_ = terms
    height, width, channels, features = kernel.shape
    edges = lax.padtype_to_pads(inputs.shape[1:3], (height, width), strides, padding)
    padded = tuple(jnp.pad(images, ((0, 0), *edges, (0, 0))) for images, _ in terms)
    rows, columns = (
        (size - extent) // stride + 1
        for size, extent, stride in zip(padded[0].shape[1:3], (height, width), strides, strict=True)
    )
    exact = jnp.dtype(jnp.float32) if inputs.dtype.itemsize < 4 else inputs.dtype
    matrices = [kernel.reshape(-1, features).astype(exact) for _, kernel in terms]

    def patches(images: Array) -> Array:
        reach = ((rows - 1) * strides[0] + 1, (columns - 1) * strides[1] + 1)
        views = [
            lax.slice(images, (0, i, j, 0), (images.shape[0], i + reach[0], j + reach[1], channels), (1, *strides, 1))
            for i in range(height)
            for j in range(width)
        ]
        return jnp.concatenate(views, -1).astype(exact).reshape(-1, height * width * channels)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def product(*tile: Array) -> Array:
        products = [patches(images) @ matrix for images, matrix in zip(tile, matrices, strict=True)]
        total = functools.reduce(jnp.add, products)
        return total.astype(inputs.dtype).reshape(-1, rows, columns, features)

    batch, size = inputs.shape[0], rows * columns * height * width * channels * exact.itemsize
    if not isinstance(batch, int):  # symbolic, in an exported program
        return product(*padded)
    return by_tiles(product, padded, math.ceil(batch / math.ceil(batch * size / TILE_BYTES)))  # of nearly equal size
