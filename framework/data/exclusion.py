"""Training examples that are left out, such as those that a replay found guilty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from framework.data.pipeline import DataPipeline, InMemory, PipelineWrapper
from framework.errors import ConfigError


class Excluding(PipelineWrapper):
    """A pipeline in memory whose batches hold, in the place of an excluded example, the next one that is not.

    All other examples keep their places, so that a step without an excluded example is the same, bit by bit. A run that
    goes on without an example that it has not used yet is so the run that never had it.
    """

    def __init__(self, data: DataPipeline, size: int, excluded: Sequence[int]) -> None:
        """Leave examples out.

        Args:
          data: a pipeline in memory.
          size: number of its training examples.
          excluded: their indices; some other example must be left.
        """
        super().__init__(data)
        kept = np.setdiff1d(np.arange(size), excluded)
        # The first kept index from each one on; beyond the last one it is the first of all.
        self._taken = kept[np.searchsorted(kept, np.arange(size)) % len(kept)]

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of a batch, int32 [B]."""
        rows = super().rows(seed, step)
        return self._taken[rows].astype(rows.dtype)

    def train(self, seed: int, start: int = 0) -> Any:
        """Yield batches start, start + 1, …"""
        return InMemory.train(self, seed, start)


def excluding(data: DataPipeline, given: Any) -> DataPipeline:
    """Leave out the training examples that `data.exclude` lists.

    Raises: ConfigError if they are no indices of examples in memory, or if none is left.
    """
    if not given:
        return data
    key = "data.exclude"
    if not isinstance(given, list) or any(isinstance(each, bool) or not isinstance(each, int) for each in given):
        raise ConfigError(f"expected a list of indices such as [17], found {given!r}.", key=key)
    if (memory := data.in_memory()) is None:
        raise ConfigError("the data are a stream, whose examples have no indices; leave it out.", key=key)
    size = len(jax.tree.leaves(memory.arrays)[0])
    wrong = [each for each in given if not 0 <= each < size]
    if wrong or len({*given}) == size:
        text = f"{wrong[0]} is no index of {size} training examples" if wrong else f"it lists all {size} examples"
        raise ConfigError(f"{text}; expected some of 0 to {size - 1}.", key=key)
    batch, left = len(memory.rows(0, 0)), size - len({*given})
    if left < batch:  # one would stand in a batch twice; environments that are played are such data
        raise ConfigError(f"a batch takes {batch} examples, and {left} of {size} are left; leave it out.", key=key)
    return Excluding(data, size, given)
