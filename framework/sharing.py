"""Who makes which examples of a batch, where several processes are one run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.contracts import Batch, DataPipeline
from framework.errors import ConfigError


class Share(NamedTuple):
    """What one process makes of every batch: the examples that its own devices take.

    A batch of B examples is cut into `of` equal parts, in order. Processes may have parts in common, where several
    devices take the same examples.

    Attributes:
      parts: which of them, ascending from 0.
      of: how many there are.
    """

    parts: Sequence[int]
    of: int

    def rows(self, size: int) -> np.ndarray:
        """The places in a batch of `size` examples, int32, ascending.

        Raises: ConfigError if it cannot be cut into equal parts.
        """
        each = _divided(size, self.of)
        return np.concatenate([np.arange(part * each, (part + 1) * each, dtype=np.int32) for part in self.parts])

    def each(self, held: int) -> int:
        """How many examples a part has, where this process has `held` of a batch.

        Raises: ConfigError if its parts are not equal.
        """
        return _divided(held, len(self.parts))


def _divided(size: int, count: int) -> int:
    if size % count:
        raise ConfigError(
            f"data: a batch of {size} examples does not divide over {count} devices; take a multiple of that, such as "
            f"data.batch_size={-(-size // count) * count}, or eval_batch_size where it is one of an evaluation."
        )
    return size // count


def restricted(data: DataPipeline, share: Share) -> DataPipeline:
    """The same batches, of which one process makes its share: by the pipeline's own `restricted`, if it has one.

    Where it has none, but its examples lie in memory, those of a training batch are gathered by index. Else batches are
    made whole and cut.
    """
    if hasattr(data, "restricted"):
        return data.restricted(share)  # pyright: ignore[reportAttributeAccessIssue]
    return _CutRows(data, share) if hasattr(data, "arrays") and hasattr(data, "rows") else _Cut(data, share)


class _Cut:
    """Batches that were made whole."""

    def __init__(self, data: Any, share: Share) -> None:
        self.spec, self.steps_per_epoch = data.spec, data.steps_per_epoch
        self.splits, self.source = data.splits, data.source
        self._data, self._share = data, share

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, … without end."""
        return map(self._cut, self._data.train(seed, start))

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the batches of a split."""
        return map(self._cut, self._data.eval(split))

    def _cut(self, batch: Batch) -> Batch:
        rows = self._share.rows(len(jax.tree.leaves(batch)[0]))
        return jax.tree.map(lambda leaf: leaf[rows], batch)


class _CutRows(_Cut):
    """The same for examples that lie in memory."""

    def __init__(self, data: Any, share: Share) -> None:
        super().__init__(data, share)
        self.arrays, self.prepare = data.arrays, getattr(data, "prepare", lambda batch: batch)

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Its examples of a training batch."""
        rows = self._data.rows(seed, step)
        return rows[self._share.rows(len(rows))]

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, … without end."""
        for step in itertools.count(start):
            rows = self.rows(seed, step)
            yield self.prepare(jax.tree.map(lambda leaf, rows=rows: leaf[rows], self.arrays))
