"""Random augmentations of images, as pure functions that run inside the compiled train step.

Each example has its own key, by its place in the whole batch: its noise depends neither on the other examples nor on
the number of devices. Leaves other than "inputs" pass.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Transform
from framework.errors import ConfigError


def random_shift(pixels: int = 2) -> Transform:
    """Shift images by up to so many whole pixels, up or down and left or right.

    What comes in repeats the border, which keeps a plain background plain, however the images are normalised.

    Args:
      pixels: the largest shift; each from -pixels to pixels is equally likely, in both directions.

    Raises: ConfigError if pixels is negative.
    """
    if pixels < 0:
        raise ConfigError(f"random_shift: pixels is {pixels}, expected 0 or more.")

    def shift(key: Array, image: Array) -> Array:
        padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
        top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
        return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)

    return each_image("random_shift", shift)


def random_flip(probability: float = 0.5) -> Transform:
    """Mirror images left to right. Not for digits or letters.

    Args:
      probability: of the mirror image, in [0, 1].

    Raises: ConfigError if probability is out of range.
    """
    _check_probability("random_flip", probability)

    def flip(key: Array, image: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)

    return each_image("random_flip", flip)


def random_erase(size: int = 8, probability: float = 0.5) -> Transform:
    """Set a square somewhere within an image to 0, the mean of normalised images.

    Args:
      size: height and width of the square in pixels.
      probability: that an image loses a square, in [0, 1].

    Raises: ConfigError if a number is out of range or images are smaller than the square.

    Reference: T. DeVries, G. W. Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
    arXiv:1708.04552. Here the square always lies within the image.
    """
    _check_probability("random_erase", probability)
    if size < 1:
        raise ConfigError(f"random_erase: size is {size}, expected at least 1.")

    def erase(key: Array, image: Array) -> Array:
        height, width, _ = image.shape
        if size > min(height, width):
            raise ConfigError(f"random_erase: size is {size}, expected at most that of the images, {height}×{width}.")
        chance, place = jax.random.split(key)
        top, left = jax.random.randint(place, (2,), 0, jnp.array([height - size + 1, width - size + 1]))
        within = _between(height, top, size)[:, None] & _between(width, left, size)[None, :]
        erased = within & jax.random.bernoulli(chance, probability)
        return jnp.where(erased[..., None], jnp.zeros_like(image), image)

    return each_image("random_erase", erase)


def gaussian_noise(scale: float = 0.1) -> Transform:
    """Add independent normal noise to every pixel.

    Args:
      scale: standard deviation, in units of the (normalised) inputs.

    Raises: ConfigError if scale is negative.
    """
    if isinstance(scale, int | float) and scale < 0:
        raise ConfigError(f"gaussian_noise: scale is {scale}, expected 0 or more.")

    def add(key: Array, image: Array) -> Array:
        return image + scale * jax.random.normal(key, image.shape, image.dtype)

    return each_image("gaussian_noise", add)


def each_image(name: str, function: Callable[[Array, Array], Array]) -> Transform:
    """Lift `function(key, image [H, W, C])` to batches."""

    def transform(keys: Array, batch: Batch) -> Batch:
        inputs = batch["inputs"]
        if getattr(inputs, "ndim", None) != 4 or not jnp.issubdtype(inputs.dtype, jnp.floating):
            found = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", inputs)
            raise ConfigError(f"{name}: inputs are {found}, expected floating-point images [B, H, W, C].")
        return {**batch, "inputs": jax.vmap(function)(keys, inputs)}

    return transform


def _between(length: int, first: Array, size: int) -> Array:
    index = jnp.arange(length)
    return (index >= first) & (index < first + size)


def _check_probability(name: str, probability: float) -> None:
    if isinstance(probability, int | float) and not 0 <= probability <= 1:
        raise ConfigError(f"{name}: probability is {probability}, expected a number from 0 to 1.")
