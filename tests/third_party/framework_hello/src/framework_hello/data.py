"""A data pipeline in NumPy whose examples are drawn as they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from framework.api import Batch, DataPipeline
from framework.errors import ConfigError


class Spirals(NamedTuple):
    """Points on two spirals, one class each."""

    batch_size: int
    eval_batch_size: int
    turns: float
    noise: float
    steps_per_epoch: int = 100  # every batch is fresh, so this is a convention
    splits: tuple[str, ...] = ("test",)

    @property
    def source(self) -> str:
        """For the run record."""
        return f"two spirals drawn at random, turns {self.turns:g}, noise {self.noise:g}"

    @property
    def spec(self) -> Batch:
        """The shapes and dtypes of a training batch."""
        points = jax.ShapeDtypeStruct((self.batch_size, 2), np.float32)
        return {"inputs": points, "targets": jax.ShapeDtypeStruct((self.batch_size,), np.int32)}

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Batch k depends on nothing but (seed, k), so a run can go on from any step."""
        for step in itertools.count(start):
            yield self.draw(np.random.default_rng([seed, step]), self.batch_size)

    def eval(self, split: str) -> Iterator[Batch]:
        """The same points in every run. They are one batch; several would need the last one padded."""
        yield self.draw(np.random.default_rng(0), self.eval_batch_size)

    def draw(self, random: np.random.Generator, count: int) -> Batch:
        """Points [count, 2] in about [-1, 1]², and their spirals [count]."""
        targets = random.integers(2, size=count, dtype=np.int32)
        radius = np.sqrt(random.uniform(0.01, 1, count))
        angle = 2 * np.pi * self.turns * radius + np.pi * targets
        points = radius * np.stack([np.cos(angle), np.sin(angle)])
        points += self.noise * random.standard_normal(points.shape)
        return {"inputs": points.T.astype(np.float32), "targets": targets}


def spirals(batch_size: int = 128, eval_batch_size: int = 512, turns: float = 1.0, noise: float = 0.02) -> DataPipeline:
    """Two intertwined spirals in the plane, to be told apart.

    Inputs are float32 [B, 2], targets int32 [B], 0 or 1. Every training batch is drawn afresh.

    Args:
      batch_size: training examples in a step.
      eval_batch_size: examples of the test split, all in one batch.
      turns: of each spiral; more are harder.
      noise: standard deviation of the points around their spiral, whose radius is 1.

    Raises: ConfigError if a batch size is below 1, or turns or noise below 0.
    """
    if min(batch_size, eval_batch_size) < 1 or min(turns, noise) < 0:
        raise ConfigError("expected batch_size and eval_batch_size of at least 1, turns and noise of at least 0.")
    return Spirals(batch_size, eval_batch_size, turns, noise)
