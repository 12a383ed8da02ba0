"""Random affine maps of images: turned, zoomed, sheared and shifted."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from framework.api import Array, Transform
from framework.errors import ConfigError
from framework_data.transforms import each_image


def random_affine(degrees: float = 15.0, zoom: float = 0.2, shear: float = 0.2, shift: float = 2.0) -> Transform:
    """Turn, zoom, shear and shift images about their centre, with bilinear interpolation.

    Each amount is uniform between its negative and itself, and drawn for each image. What comes in repeats the border.

    Args:
      degrees: largest turn.
      zoom: largest logarithm of the factor of both sides; 0.2 is about a fifth.
      shear: largest shift of a row for each row from the centre.
      shift: largest shift in pixels, down and across.

    Raises: ConfigError if a number is negative.
    """
    for name, value in {"degrees": degrees, "zoom": zoom, "shear": shear, "shift": shift}.items():
        if isinstance(value, int | float) and not value >= 0:
            raise ConfigError(f"random_affine: {name} is {value}, expected 0 or more.")
    largest = jnp.asarray([math.radians(1) * degrees, zoom, shear, shift, shift], jnp.float32)

    def warp(key: Array, image: Array) -> Array:
        angle, size, slant, *moved = largest * jax.random.uniform(key, (5,), minval=-1, maxval=1)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.array([[cos, -sin], [sin, cos]]) * jnp.exp(-size)
        return warped(image, turn @ jnp.array([[1.0, 0.0], [slant, 1.0]]), jnp.stack(moved))

    return each_image("random_affine", warp)


def warped(image: Array, matrix: Array, shift: Array) -> Array:
    """Take each pixel of an image [H, W, C] from `matrix @ place + shift`, where places count from the centre.

    Args:
      image: floating-point.
      matrix: [2, 2], for rows and columns.
      shift: [2], in pixels.

    Returns: [H, W, C]; bilinear between pixels, and the nearest one beyond the border.
    """
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(1.0 * height), jnp.arange(1.0 * width), indexing="ij"), axis=-1)
    places = (grid - centre) @ matrix.T + centre + shift
    take = lambda channel: map_coordinates(channel, [places[..., 0], places[..., 1]], order=1, mode="nearest")  # noqa: E731
    return jax.vmap(take, in_axes=-1, out_axes=-1)(image.astype(jnp.float32)).astype(image.dtype)
