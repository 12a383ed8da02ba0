"""Pipelines: the contract of what makes batches, and wrappers, such as one that makes a process's share of each."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from framework.contracts.components import Batch
from framework.contracts.strategy import Share
from framework.data.fingerprints import fingerprint_of, of_batches, of_stream
from framework.errors import PLUGIN_FAULTS

Where = Callable[[int], str]
"""`where(row)`: the file and place of an example, in words; rows count from 0."""


def numbered(row: int) -> str:
    """Name an example by its number, where nothing else is known of it."""
    return f"example {row + 1} (index {row})"


class DataPipeline(ABC):
    """Batches of NumPy arrays. Batch k is a pure function of (seed, k), so that there is no position to save.

    A subclass sets the attributes and defines `train` and `eval`. All else has a default.

    Attributes:
      spec: a training batch with `jax.ShapeDtypeStruct` leaves [B, ...].
      steps_per_epoch: training batches in one pass over the training split.
      splits: names that `eval` takes, the one for evaluation during training first.
      source: where the data came from, in words, for the run record.
      facts: what the user of a trained model must know, such as "classes" or an alphabet, as a mapping that JSON can
        hold. It is kept in the run record and is `framework.load(RUN).facts`. "preprocess" names the preprocessor and
        its options, {"name": …, option: …}, that `framework.load(RUN).preprocess` builds. "learnt" lists the facts that
        were learnt from the examples and are options of the factory, too: other data get them for the same model.
        "sample_rate", a whole number a second, says that inputs [B, T] or [B, T, C] are sounds.
    """

    spec: Batch
    steps_per_epoch: int
    splits: tuple[str, ...]
    source: str
    facts: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, … without end."""

    @abstractmethod
    def eval(self, split: str) -> Iterator[Batch]:
        """Yield every example of a split once; the last batch is padded with examples of weight 0."""

    def ready(self) -> None:  # noqa: B027 - by default there is nothing to wait for
        """Wait for what a thread of the factory still reads. It is called once, after the other components are built.

        Raises: DataError if what was read is wrong.
        """

    def examples(self) -> Iterator[tuple[str, Batch, Where]]:
        """Yield each split's name, all of its examples [N, ...] as they lie in memory, and where each comes from.

        The core checks their targets before a run begins. By default there are none: batches are made one by one.
        """
        return iter(())

    def fingerprint(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe each split, so that a resumed run notices that its data have changed.

        A split that `framework.api.fingerprint_of` described whole must be the same. By default the first training
        batch of seed 0 stands for a stream, and a change of it is only told. Override it if more can be known cheaply.

        Returns: by split, a mapping that JSON can hold.
        """
        try:
            batches = self.train(0)
            described = {"train": of_stream(next(batches), self.steps_per_epoch)}
        except PLUGIN_FAULTS:  # the loop meets it too, and names its step
            return {}
        if isinstance(batches, Generator):
            batches.close()
        return described

    def restricted(self, share: Share) -> DataPipeline:
        """Return the same batches, of which `train` and `eval` yield the examples at `share.rows(B)` only.

        B is the size of the whole batch, and `spec` stays that of whole batches. By default a whole batch is made, and
        cut. Override it if a part can be made alone.
        """
        return LocalBatches(self, share)

    def in_memory(self) -> InMemory | None:
        """Return the pipeline itself if its training examples lie in memory, else None."""
        return None


class InMemory(DataPipeline):
    """A pipeline whose training examples lie in memory. They can be kept on the devices and gathered there by index.

    A subclass defines `rows` in place of `train`.

    Attributes:
      arrays: all training examples, NumPy arrays [N, ...].
    """

    arrays: Batch

    @abstractmethod
    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of a batch in `arrays`, int32 [B]."""

    def prepare(self, batch: Batch) -> Batch:
        """Turn examples as they lie in `arrays`, such as bytes, into a batch as `spec` has it; by default, as it is.

        A pure function of NumPy's and of JAX's arrays: it becomes part of the compiled step.
        """
        return batch

    def gathered(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the examples of batches start, start + 1, … as they lie in `arrays`."""
        leaves, structure = jax.tree.flatten(self.arrays)
        for step in itertools.count(start):
            rows = self.rows(seed, step)
            # Aligned arrays would spare a compiled call its copy; the step then took 4 % more of the processor's time.
            yield jax.tree.unflatten(structure, [leaf.take(rows, axis=0) for leaf in leaves])

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, … without end."""
        return map(self.prepare, self.gathered(seed, start))

    def examples(self) -> Iterator[tuple[str, Batch, Where]]:
        """Yield the training examples, unless `prepare` makes something else of them."""
        if type(self).prepare is InMemory.prepare:
            yield "train", self.arrays, numbered

    def fingerprint(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe each split whole: by its examples in memory, or else by its evaluation batches."""
        whole = {split: fingerprint_of(arrays) for split, arrays, _ in self.examples()}
        if "train" not in whole:
            whole["train"] = fingerprint_of(self.arrays)
        for split in self.splits:
            with suppress(*PLUGIN_FAULTS):  # the evaluation meets it too
                whole[split] = whole.get(split) or of_batches(self.eval(split))
        return whole

    def in_memory(self) -> InMemory | None:
        """Return the pipeline itself."""
        return self


class PipelineWrapper(InMemory):
    """A pipeline that forwards to another one. A subclass overrides what it changes.

    It is in memory if the wrapped pipeline is: then the core calls `rows` for training batches, else `train`.

    Attributes:
      data: the wrapped pipeline.
      memory: the same if its examples lie in memory, else None.
    """

    def __init__(self, data: DataPipeline) -> None:
        self.data, self.memory = data, data.in_memory()
        self.spec, self.steps_per_epoch, self.splits = data.spec, data.steps_per_epoch, data.splits
        self.source, self.facts = data.source, data.facts

    @property
    def arrays(self) -> Batch:  # pyright: ignore[reportIncompatibleVariableOverride]
        """All training examples [N, ...]."""
        return self._examples.arrays

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of a batch."""
        return self._examples.rows(seed, step)

    def prepare(self, batch: Batch) -> Batch:
        """Turn examples as they lie in `arrays` into a batch."""
        return self._examples.prepare(batch)

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the wrapped pipeline's batches."""
        return self.data.train(seed, start)

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the wrapped pipeline's batches of a split."""
        return self.data.eval(split)

    def examples(self) -> Iterator[tuple[str, Batch, Where]]:
        """Yield the wrapped pipeline's examples."""
        return self.data.examples()

    def ready(self) -> None:
        """Wait for the wrapped pipeline."""
        self.data.ready()

    def fingerprint(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe the wrapped pipeline's splits."""
        return self.data.fingerprint()

    def in_memory(self) -> InMemory | None:
        """Return the wrapper if the wrapped pipeline is in memory, else None."""
        return None if self.memory is None else self

    @property
    def _examples(self) -> InMemory:
        if self.memory is None:
            raise TypeError(f"the examples of {type(self.data).__name__} do not lie in memory")
        return self.memory


class LocalBatches(PipelineWrapper):
    """The examples of every batch that one process makes. Those in memory are gathered alone; else a batch is cut."""

    def __init__(self, data: DataPipeline, share: Share) -> None:
        super().__init__(data)
        self.share = share

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of this process's examples, int32 [B of this process]."""
        rows = super().rows(seed, step)
        return rows[self.share.rows(len(rows))]

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of batches start, start + 1, …"""
        if self.memory is not None:
            return InMemory.train(self, seed, start)
        return map(self._cut, self.data.train(seed, start))

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield this process's part of the batches of a split."""
        return map(self._cut, self.data.eval(split))

    def _cut(self, batch: Batch) -> Batch:
        rows = self.share.rows(len(jax.tree.leaves(batch)[0]))
        return jax.tree.map(lambda leaf: leaf[rows], batch)
