"""MNIST as arrays for contenders that have no reader of their own, or random images of its shape."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from benchmarks.workloads import CLASSES, SHAPE


def find_mnist() -> Path | None:
    """The folder `mnist` of $FRAMEWORK_DATA, if it is there."""
    folders = [Path(root) / "mnist" for root in os.environ.get("FRAMEWORK_DATA", "").split(os.pathsep) if root]
    return next((folder for folder in folders if (folder / "train-images-idx3-ubyte.gz").exists()), None)


def load(synthetic: int) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [N, 28, 28, 1] of mean 0 and standard deviation 1, and labels int32 [N].

    Args:
      synthetic: how many to make up; 0 for MNIST's training images.
    """
    if synthetic:
        random = np.random.default_rng(0)
        labels = random.integers(CLASSES, size=synthetic, dtype=np.int32)
        return random.standard_normal((synthetic, *SHAPE), np.float32), labels
    folder = find_mnist()
    assert folder is not None, "MNIST is not in $FRAMEWORK_DATA"
    pixels = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    scaled = (pixels.reshape(-1, *SHAPE) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    return scaled, labels.astype(np.int32)
