"""Excerpts of data, for the presets of `debug`: one batch again and again, or the first batches of an evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from framework.contracts.components import Batch
from framework.data.pipeline import DataPipeline, InMemory, PipelineWrapper


class FirstBatch(PipelineWrapper):
    """The first training batch of a seed in every step, and as the only batch of the evaluation."""

    splits = ("batch",)

    def __init__(self, data: DataPipeline, seed: int) -> None:
        """Take the batch of step 0.

        Args:
          data: a pipeline, whose fingerprint this one has.
          seed: of the batch that is evaluated.
        """
        super().__init__(data)
        self.splits, self._seed = FirstBatch.splits, seed

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of the first batch, int32 [B]."""
        return super().rows(seed, 0)

    def train(self, seed: int, start: int = 0) -> Iterator[Any]:
        """Yield the first batch without end."""
        if self.memory is not None:
            return InMemory.train(self, seed, start)
        return itertools.repeat(next(self.data.train(seed)))

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the first batch once."""
        return itertools.islice(self.train(self._seed), 1)


class FewBatches(PipelineWrapper):
    """All training batches, and the first few batches of every evaluation."""

    def __init__(self, data: DataPipeline, count: int) -> None:
        """Cut evaluations to `count` batches."""
        super().__init__(data)
        self._count = count

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the first batches of a split."""
        return itertools.islice(self.data.eval(split), self._count)
