"""A data plugin: images in bytes that the compiled step scales, or the same scaled beforehand."""

from __future__ import annotations

import numpy as np

from framework.api import Batch, DataPipeline
from framework_data.pipeline import InMemoryPipeline


def scale(batch: Batch) -> Batch:
    """Bytes as numbers from -0.5 to 0.5."""
    return {**batch, "inputs": batch["inputs"].astype(np.float32) * np.float32(1 / 255) - np.float32(0.5)}


def pixels(scaled: bool = False) -> DataPipeline:
    """Sixty-four rows of six pixels in ten classes; `scaled` before training, not within it."""
    inputs = np.random.default_rng(0).integers(0, 256, (64, 6), np.uint8)
    examples = {"inputs": inputs, "targets": (inputs[:, 0] // 26).astype(np.int32)}
    if scaled:
        return InMemoryPipeline(scale(examples), {"test": scale(examples)}, 16, 16, "floats")
    return InMemoryPipeline(examples, {"test": examples}, 16, 16, "bytes", prepare=scale)
