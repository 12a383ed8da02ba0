"""A data plugin: the synthetic data as a stream that waits without end where the variable WAIT says, "7" or "eval"."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from framework.api import Batch, DataPipeline
from framework_data.synthetic import synthetic


class Waiting:
    """A stream that may wait before the batch of one step (from 0), or after the first batch of an evaluation."""

    def __init__(self, made: DataPipeline) -> None:
        self.spec, self.steps_per_epoch, self.splits, self.source = made.spec, made.steps_per_epoch, made.splits, "w"
        self.made = made

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """All batches from a step on, as `DataPipeline.train`."""
        for step, batch in enumerate(self.made.train(seed, start), start):
            if os.environ.get("WAIT") == str(step):
                threading.Event().wait()
            yield batch

    def eval(self, split: str) -> Iterator[Batch]:
        """All batches of a split, as `DataPipeline.eval`."""
        for batch in self.made.eval(split):
            yield batch
            if os.environ.get("WAIT") == "eval":
                threading.Event().wait()


def waiting() -> DataPipeline:
    """Four batches of sixteen an epoch, as in `framework.testing.TINY`."""
    return Waiting(synthetic(shape=(6,), examples=64, noise=3.0, batch_size=16, eval_batch_size=16))
