"""Data: the pipeline's contract, and the parts of a batch that one process makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from framework.contracts import Batch
from framework.errors import ConfigError


class DataPipeline(Protocol):
    """Batches of NumPy arrays. Batch k is a pure function of (seed, k), so there is nothing to save or restore.

    A pipeline may have more: `facts`, a mapping for JSON of what one must know to use a trained model, which goes into
    the run's record and is `framework.load(RUN).facts`; `ready()`, called once the rest is built, which waits for what
    a thread of its factory still reads; what `stepping.Indexed` says, for examples in memory; and for several processes
    `restricted(share: Share) -> DataPipeline`, of the same batches, of which `train` and `eval` make only the examples
    at `share.rows(size)`, size being that of the whole batch. All else stays that of whole batches, `spec` too.

    Attributes:
      spec: a training batch with `jax.ShapeDtypeStruct` leaves [B, ...].
      steps_per_epoch: training batches in one pass over the training split.
      splits: names that `eval` takes, the one for evaluation during training first.
      source: where the data came from, in words, for the run record.
    """

    @property
    def spec(self) -> Batch: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> str: ...

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, … without end."""
        ...

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield every example of a split once; the last batch is padded with examples of weight 0."""
        ...


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


class InMemory(Protocol):
    """What a pipeline may offer beside `train` if its examples lie in memory: all of them, and a batch's indices.

    Where they lie in another form than that of a batch, such as bytes for floats, it offers `prepare(batch)` too, a
    pure function of NumPy's and JAX's arrays: it becomes part of the step.

    Attributes:
      arrays: the training examples, leaves [N, ...].
      rows: of a batch, int32 [B].
    """

    arrays: Batch

    def rows(self, seed: int, step: int) -> np.ndarray: ...


def is_indexed(data: DataPipeline) -> bool:
    """Whether a pipeline's examples lie in memory, to be gathered by index."""
    return hasattr(data, "arrays") and hasattr(data, "rows")
