"""A learnable data set made up on the spot, for tests and benchmarks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from framework.api import Batch
from framework.errors import ConfigError
from framework_data.pipeline import InMemoryPipeline

SEED = 20_000_303  # of the examples, apart from that of a run: all runs see the same set


def synthetic(
    shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    examples: int = 4096,
    task: Literal["classification", "regression"] = "classification",
    noise: float = 1.0,
    batch_size: int = 128,
    eval_batch_size: int = 256,
) -> InMemoryPipeline:
    """A synthetic task that can be learnt: noisy class means, or a noisy linear map.

    Inputs are float32 [B, *shape] from continuous distributions, so every example differs from all others. A quarter as
    many examples again, at least one, form the test split.

      classification: int32 [B] labels in turn; an input is the mean of its class, drawn from a standard normal
        distribution, plus noise.
      regression: inputs are standard normal; targets float32 [B, classes] are a random linear map of them, of about
        unit variance, plus noise.

    Args:
      shape: of one input.
      classes: number of classes, or of targets in a regression.
      examples: in the training split.
      task: which of the two.
      noise: standard deviation of the noise; above 0 for a classification.
      batch_size: training examples in a step.
      eval_batch_size: examples in an evaluation batch.

    Raises: ConfigError if a number is out of range.
    """
    if min((*shape, classes, examples)) < 1:
        raise ConfigError(f"shape={shape}, classes={classes}, examples={examples}: expected numbers of at least 1.")
    if noise < 0 or (noise == 0 and task == "classification"):
        raise ConfigError(f"noise is {noise}, expected more than 0, lest all examples of a class be one.")
    random = np.random.default_rng(SEED)
    make = _classification if task == "classification" else _regression
    whole = make(random, examples + max(1, examples // 4), shape, classes, np.float32(noise))
    train, test = ({name: leaf[part] for name, leaf in whole.items()} for part in np.s_[:examples, examples:])
    return InMemoryPipeline(train, {"test": test}, batch_size, eval_batch_size, f"synthetic {task}")


def _classification(
    random: np.random.Generator, count: int, shape: tuple[int, ...], classes: int, noise: np.float32
) -> Batch:
    means = random.standard_normal((min(classes, count), *shape), np.float32)  # of the classes that have an example
    targets = np.arange(count, dtype=np.int32) % classes
    inputs = random.standard_normal((count, *shape), np.float32)
    inputs *= noise
    inputs += means[targets]
    return {"inputs": inputs, "targets": targets}


def _regression(
    random: np.random.Generator, count: int, shape: tuple[int, ...], outputs: int, noise: np.float32
) -> Batch:
    size = int(np.prod(shape))
    weights = random.standard_normal((size, outputs), np.float32) / np.float32(np.sqrt(size))
    inputs = random.standard_normal((count, *shape), np.float32)
    targets = inputs.reshape(count, size) @ weights + noise * random.standard_normal((count, outputs), np.float32)
    return {"inputs": inputs, "targets": targets}
