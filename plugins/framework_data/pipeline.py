"""Batches out of arrays that fit in memory, each a pure function of (seed, step)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import jax
import numpy as np

from framework.api import Batch, InMemory, PyTree, Share, Where, as_aligned, numbered
from framework.errors import ConfigError, DataError, nearest

ALL = Share((0,), 1)
"""Whole batches."""


def _as_it_is(batch: Batch) -> Batch:
    return batch


class InMemoryPipeline(InMemory):
    """Shuffled training batches and padded evaluation batches, gathered from arrays by index.

    Every epoch has its own order, drawn from (seed, epoch). Its incomplete last batch is dropped, so that all batches
    have one shape; the next order brings those examples back.

    Attributes:
      spec: a training batch with `jax.ShapeDtypeStruct` leaves [B, ...].
      steps_per_epoch: full batches in the training split.
      splits: names that `eval` takes.
      source: where the data came from, in words.
      facts: for users of a trained model; a factory sets them.
      ready: waits for what is still being read, and raises DataError if it is damaged.
      where: by split, the file and row of an example in words, for messages; by default they are numbered.
    """

    where: Mapping[str, Where] = MappingProxyType({})

    def __init__(
        self,
        train: Batch,
        evals: Mapping[str, Batch],
        batch_size: int,
        eval_batch_size: int,
        source: str,
        ready: Callable[[], None] = lambda: None,
        prepare: Callable[[Batch], Batch] = _as_it_is,
    ) -> None:
        """Take the splits as pytrees of arrays [N, ...].

        Args:
          ready: arrays that are aligned already may be filled as late as this returns; others are copied at once.
          prepare: makes a batch of some examples, each by itself, and leaves "weights" alone; of NumPy arrays as well
            as under `jax.jit`. So examples may lie in memory, and be gathered, in fewer bytes than a model takes.

        Raises: DataError if leading axes, shapes or dtypes disagree or a split is too small; ConfigError if a batch
          size is below 1.
        """
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise ConfigError(f"{name} is {size}, expected at least 1.")
        count = count_examples(train, "train")
        if count < batch_size:
            fix = f"Set data.batch_size to {count} or less" if count else "Give it examples"
            raise DataError(f"the training split has {count} examples, fewer than one batch of {batch_size}. {fix}.")
        for name, split in evals.items():
            _check_alike(train, split, name)
        if np.ndim(weights := train.get("weights", ())) > 1 and np.shape(weights)[-1] == 1:
            raise DataError(
                f"'weights' is {list(np.shape(weights))}, expected one number for each example, [{count}], or for each "
                "position of a sequence. Drop its last axis."
            )
        self._arrays = _frozen(jax.tree.map(as_aligned, dict(train)))
        self.ready, self._prepare = ready, prepare
        lying = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), self._arrays)
        self.spec = lying if prepare is _as_it_is else jax.eval_shape(prepare, lying)
        self.steps_per_epoch = count // batch_size
        self.splits = tuple(evals)
        self.source = source
        self._evals = {name: _frozen(split) for name, split in evals.items()}
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._share = ALL
        self._orders = functools.cache(functools.partial(_orders, count))

    @property
    def arrays(self) -> Batch:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Training split, C-contiguous, read-only and aligned, so that a device on a CPU uses it in place.

        `rows` says which of its examples make up a batch, and `prepare` makes it.
        """
        self.ready()
        return self._arrays

    def prepare(self, batch: Batch) -> Batch:
        """Make a batch of examples as they lie in `arrays`."""
        return self._prepare(batch)

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of a training batch in `arrays`, int32 [B]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size
        rows = self._orders(seed)(epoch)[first : first + self._batch_size]
        return rows if self._share is ALL else rows[self._share.rows(self._batch_size)]

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield every example of a split once, in order, with "weights" [B] of 1, and of 0 for padding."""
        if split not in self._evals:
            raise ConfigError(f"there is no split '{split}' to evaluate.{nearest(split, self.splits)}")
        self.ready()
        return map(self.prepare, padded(self._evals[split], self._eval_batch_size, self._share))

    def examples(self) -> Iterator[tuple[str, Batch, Where]]:
        """Yield each split's name, all of its examples [N, ...] as they lie in memory, and where each comes from."""
        for name, split in {"train": self.arrays, **self._evals}.items():
            yield name, split, self.where.get(name, numbered)

    def restricted(self, share: Share) -> InMemoryPipeline:
        """Return the same batches, of which only the examples of one process are made."""
        part = copy.copy(self)
        part._share = share
        return part


def padded(arrays: Batch, batch_size: int, share: Share = ALL) -> Iterator[Batch]:
    """Yield every example once, in order, with "weights" [B] of 1 or its own; padding of the last batch has weight 0.

    Args:
      arrays: all examples, [N, ...].
      batch_size: B, before it is shared.
      share: what is made of every batch.
    """
    count = count_examples(arrays, "eval")
    places = share.rows(batch_size)
    for first in range(0, count, batch_size):
        wanted = first + places
        # Padding repeats the last example: a real one, so that it cannot bring up a NaN.
        batch = gather(arrays, np.minimum(wanted, count - 1))
        real = (wanted < count).astype(np.float32)
        weights = batch.get("weights", real)
        yield {**batch, "weights": weights * real.reshape(-1, *[1] * (weights.ndim - 1))}


def _orders(count: int, seed: int) -> Callable[[int], np.ndarray]:
    """Return the orders of a seed by epoch. Members of one run ask for those of several seeds in turn.

    Two are kept, since a reader running ahead and one that asks for rows may stand on both sides of a boundary.
    """
    return functools.lru_cache(maxsize=2)(functools.partial(epoch_order, count, seed))


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of `count` examples, int32 [count], read-only; a pure function of its arguments."""
    # NumPy's seeds must not be negative, JAX's may be.
    order = np.random.default_rng([seed % 2**64, epoch]).permutation(count).astype(np.int32)
    order.flags.writeable = False
    return order


def gather(arrays: PyTree, rows: np.ndarray) -> PyTree:
    """Gather the rows [B] of every array [N, ...], as fresh contiguous arrays [B, ...]."""
    return jax.tree.map(lambda leaf: leaf.take(rows, axis=0), arrays)


def hold_out(
    train: Batch, test: Batch, validation: int | float = 0, train_limit: int | None = None
) -> tuple[Batch, dict[str, Batch]]:
    """Take a validation split from the end of the training examples, whatever the seed.

    Args:
      train: arrays [N, ...].
      test: arrays [M, ...].
      validation: how many examples, or their share where below 1; 0 for no such split.
      train_limit: keep at most so many of the first remaining training examples.

    Returns: (training split, evaluation splits: "validation" first, if there is one, and "test").

    Raises: ConfigError if a number is out of range, DataError if no training example would be left.
    """
    count = count_examples(train, "train")
    if validation < 0 or (validation >= 1 and validation != int(validation)):
        raise ConfigError(f"validation is {validation}, expected a count of examples or a share below 1.")
    if train_limit is not None and train_limit < 1:
        raise ConfigError(f"train_limit is {train_limit}, expected at least 1, or null for all examples.")
    held = int(validation) if validation >= 1 else round(count * validation)
    if held >= count:
        raise DataError(f"validation={validation} leaves none of {count} training examples. Take a share such as 0.1.")
    kept = min(count - held, count if train_limit is None else train_limit)
    evals = {"validation": jax.tree.map(lambda leaf: leaf[count - held :], train)} if validation else {}
    return jax.tree.map(lambda leaf: leaf[:kept], train), {**evals, "test": test}


def count_examples(batch: Batch, split: str) -> int:
    """Return the size of the leading axis that all leaves have in common.

    Raises: DataError naming a leaf without one, or two that disagree.
    """
    leaves = jax.tree.leaves_with_path(batch)
    if not leaves:
        raise DataError(f"split '{split}' holds no arrays, expected at least 'inputs'.")
    for path, leaf in leaves:
        if np.ndim(leaf) == 0:
            raise DataError(f"split '{split}': '{_name(path)}' is a single value, expected an array [examples, ...].")
    first_path, first = leaves[0]
    for path, leaf in leaves:
        if len(leaf) != len(first):
            raise DataError(
                f"split '{split}': '{_name(first_path)}' has {len(first)} examples and '{_name(path)}' has {len(leaf)},"
                " expected one leading axis. Give every array one entry for each example."
            )
    return len(first)


def _check_alike(train: Batch, other: Batch, split: str) -> None:
    if count_examples(other, split) == 0:
        raise DataError(f"split '{split}' has no examples, expected at least one.")
    expected, found = jax.tree.structure(train), jax.tree.structure(other)
    if expected != found:
        raise DataError(f"split '{split}' is {found}, expected the training split's {expected}.")
    for (path, mine), theirs in zip(jax.tree.leaves_with_path(train), jax.tree.leaves(other), strict=True):
        if (mine.shape[1:], mine.dtype) != (theirs.shape[1:], theirs.dtype):
            raise DataError(
                f"split '{split}': '{_name(path)}' holds {theirs.dtype}{list(theirs.shape[1:])} for each example,"
                f" expected {mine.dtype}{list(mine.shape[1:])} as in training."
            )


def _frozen(batch: Batch) -> Batch:
    def freeze(leaf: np.ndarray) -> np.ndarray:
        view = np.ascontiguousarray(leaf).view()
        view.flags.writeable = False
        return view

    return jax.tree.map(freeze, dict(batch))


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
