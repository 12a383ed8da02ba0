"""The data of reinforcement learning: numbers of environments and of episodes, since a task makes the rest itself."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from framework.api import Batch, InMemory
from framework.errors import ConfigError, nearest


class Episodes(InMemory):
    """The numbers of environments that are played side by side, and those of the episodes of an evaluation.

    Every training batch is {"inputs": int32 [B]}, the numbers 0 to B - 1: a device simulates those it is given.
    """

    splits = ("episodes",)
    steps_per_epoch = 1

    def __init__(self, batch_size: int, episodes: int, eval_batch_size: int) -> None:
        """Count to `batch_size`, and to the number of episodes in batches of `eval_batch_size`."""
        self.arrays = {"inputs": np.arange(batch_size, dtype=np.int32)}
        self.spec = {"inputs": jax.ShapeDtypeStruct((batch_size,), np.int32)}
        self.source = f"episodes of {batch_size} environments"
        self._episodes, self._eval_batch_size = episodes, eval_batch_size

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the numbers of all environments, int32 [B]."""
        return self.arrays["inputs"]

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the number of each episode once, with "weights" [B] of 1, and of 0 for padding."""
        if split not in self.splits:
            raise ConfigError(f"there is no split '{split}' to evaluate.{nearest(split, self.splits)}")
        for first in range(0, self._episodes, self._eval_batch_size):
            numbers = first + np.arange(self._eval_batch_size, dtype=np.int32)
            yield {"inputs": numbers, "weights": (numbers < self._episodes).astype(np.float32)}


def episodes(batch_size: int = 16, episodes: int = 100, eval_batch_size: int = 100) -> InMemory:
    """Environments to play side by side, and episodes to play in an evaluation: the data of `task=ppo` and its like.

    Args:
      batch_size: environments that are played side by side in training.
      episodes: of an evaluation. They begin alike in every run: the number of an episode is its seed.
      eval_batch_size: of them that are played side by side.

    Raises: ConfigError if a number is below 1.
    """
    given = {"batch_size": batch_size, "episodes": episodes, "eval_batch_size": eval_batch_size}
    for name, number in given.items():
        if number < 1:
            raise ConfigError(f"{name} is {number}, expected at least 1.")
    return Episodes(batch_size, episodes, eval_batch_size)
