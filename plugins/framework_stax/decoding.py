"""Layers that lead from vectors back to images."""

from __future__ import annotations

import math

import jax.numpy as jnp

from framework.api import Array, Model, Shape, Size, as_model
from framework.errors import ConfigError
from framework_stax.tiles import examplewise


def Reshape(shape: tuple[int, ...]) -> Model:
    """Give each example another shape: [B, ...] to [B, *shape], with the numbers in their order.

    Args:
      shape: of an example's outputs; one size may be -1, which takes what is left.

    Raises: ConfigError if an example has another number of numbers.
    """

    def reshaped(size: int) -> tuple[int, ...]:
        known = math.prod(each for each in shape if each != -1)
        rest = size // known if known > 0 else 0
        sizes = tuple(rest if each == -1 else each for each in shape)
        if shape.count(-1) > 1 or min(sizes, default=1) < 1 or math.prod(sizes) != size:
            raise ConfigError(f"Reshape to {list(shape)} expects as many numbers in an example, found {size}.")
        return sizes

    def init(key: Array, in_shape: Shape) -> tuple[Shape, tuple[()]]:
        return (in_shape[0], *reshaped(math.prod(in_shape[1:]))), ()

    def apply(params: tuple[()], inputs: Array) -> Array:
        return inputs.reshape(inputs.shape[0], *reshaped(math.prod(inputs.shape[1:])))

    return examplewise(as_model((init, apply), "Reshape"))


def Upsample(factor: Size = 2) -> Model:
    """Repeat each pixel down and across: images [B, H, W, C] to [B, factor H, factor W, C].

    With a convolution behind it, it takes the place of a transposed convolution, without the chessboard patterns that
    these make (Odena et al. 2016, "Deconvolution and checkerboard artifacts").

    Args:
      factor: repetitions in both directions.

    Raises: ConfigError if the factor is below 1, or the inputs are not [B, H, W, C].
    """
    if factor < 1:
        raise ConfigError(f"Upsample expects a factor of 1 or more, found {factor}.")

    def init(key: Array, in_shape: Shape) -> tuple[Shape, tuple[()]]:
        if len(in_shape) != 4:
            raise ConfigError(f"Upsample expects images [B, H, W, C], found {in_shape}.")
        batch, height, width, channels = in_shape
        return (batch, factor * height, factor * width, channels), ()

    def apply(params: tuple[()], inputs: Array) -> Array:
        batch, height, width, channels = inputs.shape
        repeated = jnp.broadcast_to(inputs[:, :, None, :, None, :], (batch, height, factor, width, factor, channels))
        return repeated.reshape(batch, factor * height, factor * width, channels)

    return examplewise(as_model((init, apply), "Upsample"))
