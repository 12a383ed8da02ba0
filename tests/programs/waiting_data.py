"""A data plugin: synthetic data as a stream that waits without end where the variable WAIT says, "7" or "eval 2"."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from framework.api import Batch, DataPipeline
from framework_data.synthetic import synthetic


class Waiting:
    """A stream that may wait before the batch of a step (from 0), or after the first one of an evaluation (from 1)."""

    def __init__(self, made: DataPipeline) -> None:
        self.spec, self.steps_per_epoch, self.splits, self.source = made.spec, made.steps_per_epoch, made.splits, "w"
        self.made, self.evaluations = made, 0

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """All batches from a step on, as `DataPipeline.train`."""
        for step, batch in enumerate(self.made.train(seed, start), start):
            if os.environ.get("WAIT") == str(step):
                threading.Event().wait()
            yield batch

    def eval(self, split: str) -> Iterator[Batch]:
        """All batches of a split, as `DataPipeline.eval`."""
        self.evaluations += 1
        for batch in self.made.eval(split):
            yield batch
            if os.environ.get("WAIT") == f"eval {self.evaluations}":
                threading.Event().wait()


def waiting() -> DataPipeline:
    """Four batches of sixteen an epoch, as in `framework.testing.TINY`."""
    return Waiting(synthetic(shape=(6,), examples=64, noise=3.0, batch_size=16, eval_batch_size=16))
