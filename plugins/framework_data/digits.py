"""Small set of real handwritten digits that ships with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from framework.api import Batch
from framework.errors import ConfigError
from framework_data.images import byte_images
from framework_data.pipeline import InMemoryPipeline, hold_out

MEAN, STD = 0.3053, 0.3761  # of the pixels, scaled to [0, 1]
TEST_PER_CLASS = 30
SIDE, LARGEST = 8, 16  # of an image as it is stored, and of its pixels
DIGITS = tuple("0123456789")
SOURCE = "the 1,797 handwritten digits that ship with the package (UCI, E. Alpaydin and C. Kaynak, CC BY 4.0)"


def digits(
    batch_size: int = 128,
    eval_batch_size: int = 300,
    size: int = 28,
    validation: int | float = 0,
    train_limit: int | None = None,
    normalize: bool = True,
    only: tuple[int, ...] = (),
) -> InMemoryPipeline:
    """UCI handwritten digits that ship with the package: 1,797 images, 300 of them for testing.

    Inputs are float32 [B, size, size, 1], targets int32 [B] in 0..9. The test split is fixed: 30 examples of each
    digit, evenly spread over the set.

    Args:
      batch_size: training examples in a step.
      eval_batch_size: examples in an evaluation batch.
      size: height and width to which the 8×8 images are resized; 28 is that of MNIST, 8 keeps them as they are.
      validation: number of training examples (or their share, below 1) in the split "validation".
      train_limit: number of training examples at most, from the first on.
      normalize: shift and scale pixels to mean 0 and standard deviation 1; without it they lie in [0, 1].
      only: the digits that are kept, as the classes 0, 1, … in this order; by default all ten.

    Raises: ConfigError if one of them is no digit, or named twice.

    Reference: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    doi:10.24432/C50P49.
    """
    train, test, source = load_digits(size, normalize)
    if only:
        train, test = _kept(train, only), _kept(test, only)
        source = f"{source}, only {', '.join(map(str, only))}"
    train, evals = hold_out(train, test, validation, train_limit)
    pipeline = InMemoryPipeline(train, evals, batch_size, eval_batch_size, source)
    facts = digit_facts(size, normalize)
    pipeline.facts = {**facts, "classes": [DIGITS[digit] for digit in only]} if only else facts
    return pipeline


def _kept(examples: Batch, only: tuple[int, ...]) -> Batch:
    """Keep the examples of some digits, whose targets become 0, 1, …"""
    if wrong := [digit for digit in only if not 0 <= digit < len(DIGITS) or only.count(digit) > 1]:
        raise ConfigError(f"only: {wrong[0]} is no digit, or is named twice; expected some of 0 to 9, such as [5,6].")
    targets = np.asarray(examples["targets"])
    rows = np.isin(targets, only)
    numbers = np.full(len(DIGITS), -1, np.int32)
    numbers[list(only)] = np.arange(len(only))
    return {"inputs": examples["inputs"][rows], "targets": numbers[targets[rows]]}


def digit_facts(size: int, normalize: bool) -> dict[str, Any]:
    """Return the facts of a pipeline of digits: how its inputs are made of 8×8 images, and the names of its classes."""
    mean, std = (MEAN, STD) if normalize else (0.0, 1.0)
    return {
        "preprocess": {"name": "digit_images", "size": size, "mean": mean, "std": std},
        "classes": list(DIGITS),
    }


def digit_images(size: int = 28, mean: float = 0.0, std: float = 1.0) -> Callable[[Any], np.ndarray]:
    """Turn UCI's digits, uint8 [B, 8, 8] from 0 to 16, into float32 [B, size, size, 1], as in training.

    Args:
      size: height and width to which the images are resized.
      mean: of the training pixels, scaled to [0, 1]; it is subtracted.
      std: standard deviation of the same, by which the difference is divided.

    Raises: ConfigError, when called, for images of another dtype or shape, or of pixels above 16.
    """

    def preprocess(raw: Any) -> np.ndarray:
        images = byte_images(raw, (SIDE, SIDE, 1), LARGEST)[..., 0]
        if images.max(initial=0) > LARGEST:
            found = f"expected raw digits with pixels from 0 to {LARGEST}, found {images.max()}"
            raise ConfigError(f"{found}; divide bytes up to 255 by {256 // LARGEST} first: raw // {256 // LARGEST}.")
        return normalized(images, size, mean, std)[..., None]

    return preprocess


def normalized(images: np.ndarray, size: int, mean: float, std: float) -> np.ndarray:
    """Resize images [N, 8, 8] from 0 to 16 to float32 [N, size, size], shifted and scaled by mean and std."""
    pixels = resize(images.astype(np.float32) / np.float32(LARGEST), size)
    return pixels if (mean, std) == (0.0, 1.0) else (pixels - np.float32(mean)) / np.float32(std)


def load_digits(size: int, normalize: bool) -> tuple[Batch, Batch, str]:
    """Load the digits as (training split, test split, source in words).

    Raises: ConfigError if size is below 1.
    """
    if size < 1:
        raise ConfigError(f"size is {size}, expected at least 1; 8 keeps the images as they are.")
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"].astype(np.int32)
    pixels = normalized(images, size, *((MEAN, STD) if normalize else (0.0, 1.0)))
    test = spread_rows(labels)
    train = np.setdiff1d(np.arange(len(labels)), test)
    train, test = ({"inputs": pixels[rows][..., None], "targets": labels[rows]} for rows in (train, test))
    return train, test, SOURCE if size == 8 else f"{SOURCE}, resized to {size}×{size}"


def spread_rows(labels: np.ndarray) -> np.ndarray:
    """Select as many examples of each class, evenly spread over the set and thus over its writers: int [300]."""
    spread = np.arange(TEST_PER_CLASS)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rows[spread * len(rows) // TEST_PER_CLASS] for rows in members]))


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize square images [N, S, S] to float32 [N, size, size] by bilinear interpolation.

    Pixels are areas: centres lie at halves, and positions beyond the outermost centres repeat them.
    """
    weights = _interpolation(images.shape[1], size)
    return weights @ images @ weights.T


def _interpolation(old: int, new: int) -> np.ndarray:
    """Weights of the old pixels in each new pixel: float32 [new, old]."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(old))).astype(np.float32)
