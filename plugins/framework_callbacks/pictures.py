"""Pictures of what a classifier does, as pixels: captioned examples, a confusion matrix, and the filters of a layer."""

from __future__ import annotations

import math

import numpy as np

GLYPHS = {
    "0": 0b111101101101111,
    "1": 0b010110010010111,
    "2": 0b111001111100111,
    "3": 0b111001111001111,
    "4": 0b101101111001001,
    "5": 0b111100111001111,
    "6": 0b111100111101111,
    "7": 0b111001010010010,
    "8": 0b111101111101111,
    "9": 0b111101111001111,
    ">": 0b100010001010100,
}
"""Letters of 3×5 pixels, row by row from the top left, the highest bit first."""

GREEN, RED = (0.1, 0.6, 0.2), (0.85, 0.1, 0.1)

BLUES = np.array([[0.97, 0.98, 1.0], [0.42, 0.68, 0.84], [0.03, 0.19, 0.42]])
"""Ends and middle of a scale of colours, from low to high; colour-blind readers can order it."""

CELL = 16
"""Pixels of a side of a cell of a confusion matrix."""


def captioned(images: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Write the class that was found below each image, in green; a wrong one in red, after the right one: "3>5".

    Args:
      images: real numbers [N, H, W, C], with C of 1 or 3.
      targets: integers [N], the right classes.
      predicted: integers [N].

    Returns: float32 [N, H + 7, W', 3], from 0 to 1, as wide as the images and the texts need.
    """
    texts = [str(a) if a == b else f"{a}>{b}" for a, b in zip(targets.tolist(), predicted.tolist(), strict=True)]
    width = max(images.shape[2], 4 * max(map(len, texts)) + 1)
    found = np.ones((len(images), images.shape[1] + 7, width, 3), np.float32)
    left = (width - images.shape[2]) // 2
    found[:, : images.shape[1], left : left + images.shape[2]] = spread(images)
    for image, text, is_right in zip(found, texts, targets == predicted, strict=True):
        for place, letter in enumerate(text):
            bits = [int(bit) for bit in f"{GLYPHS[letter]:015b}"]
            image[-6:-1, 4 * place + 1 : 4 * place + 4][np.array(bits).reshape(5, 3) == 1] = GREEN if is_right else RED
    return found


def spread(images: np.ndarray) -> np.ndarray:
    """Spread images of any range over 0 to 1, all of them alike."""
    images = np.nan_to_num(images.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = images.min(), images.max()
    return (images - low) / (high - low) if high > low else images * 0


def heat_map(counts: np.ndarray) -> np.ndarray:
    """Draw a confusion matrix: a row for each right class, a column for each class that was found.

    Args:
      counts: [K, K]. A row's colours say how its examples are shared out among the columns.

    Returns: float32 [K * 16, K * 16, 3].
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = np.stack([np.interp(shares, [0, 0.5, 1], channel) for channel in BLUES.T], axis=-1)
    cells = np.kron(colours, np.ones((CELL, CELL, 1)))
    cells[::CELL], cells[:, ::CELL] = 0.8, 0.8
    return cells.astype(np.float32)


def filters(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the filters of a first layer as pictures, each spread over black to white, with a white border.

    Args:
      weights: [h, w, C, N] of a convolution, or [H * W * C, N] of a dense layer.
      shape: of an input, (H, W, C).

    Returns: float32 [N, h', w', C] of at most 64; None where there is no picture in them.
    """
    if len(shape) != 3 or shape[-1] not in (1, 3):
        return None
    if weights.ndim == 2 and len(weights) == math.prod(shape):
        weights = weights.reshape(*shape, -1)
    if weights.ndim != 4 or weights.shape[2] != shape[-1]:
        return None
    each = np.moveaxis(weights[..., :64], -1, 0)
    pictures = np.stack([spread(one) for one in each])
    scale = max(1, -(-24 // pictures.shape[1]))
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    return np.pad(pictures.repeat(scale, axis=1).repeat(scale, axis=2), border, constant_values=1.0)
