"""Checks of data before and during a run: examples against what a task can learn from, batches against their spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from framework.contracts import Batch, PyTree
from framework.data import DataPipeline, PipelineWrapper, Where, numbered
from framework.errors import PLUGIN_FAULTS, DataError, FrameworkError, PluginError, is_users, told
from framework.trees import named_leaves, shapes_text

Check = Callable[[Batch, Batch], tuple[int, str] | None]
"""`Task.check`."""


def check_pipeline(data: DataPipeline, title: str) -> None:
    """Check a pipeline's spec, splits and steps per epoch, once, before they are used.

    Args:
      title: of the plugin, for messages.

    Raises: PluginError naming the attribute that is not as `DataPipeline` has it.
    """

    def refuse(text: str) -> NoReturn:
        raise PluginError(f"{title} breaks its contract: {text}.")

    spec, splits, epoch = data.spec, data.splits, data.steps_per_epoch
    if not isinstance(spec, Mapping) or "inputs" not in spec:
        refuse(f"expected a `spec` with the key 'inputs', found {_keys(spec)}")
    for path, leaf in named_leaves(spec):
        if not (hasattr(leaf, "dtype") and getattr(leaf, "shape", ())):
            refuse(f"`spec` has {path} = {leaf!r}, expected a jax.ShapeDtypeStruct [B, ...]")
    sizes = {path: leaf.shape[0] for path, leaf in named_leaves(spec)}
    if len(set(sizes.values())) > 1:
        refuse(f"`spec` has leaves of several batch sizes: {sizes}")
    if isinstance(splits, str) or not splits or not all(isinstance(split, str) for split in splits):
        refuse(f"expected one name or more in `splits`, found {splits!r}")
    if not isinstance(epoch, int | np.integer) or epoch < 1:
        refuse(f"expected a `steps_per_epoch` from 1, found {epoch!r}")


def check_examples(data: DataPipeline, check: Check | None) -> bool:
    """Check that a task can learn from all examples of a pipeline that has them in memory.

    Weights must be finite numbers from 0, one of them above it.

    Args:
      data: a pipeline; one that yields no `examples` passes.
      check: `Task.check`; None if the task checks nothing.

    Returns: True if the pipeline has examples in memory.

    Raises: DataError that names the split, file and row of the first one that does not fit.
    """
    has_some = False
    for split, examples, where in data.examples():
        has_some = True
        _check_weights(examples, split, where)
        if check is not None and (fault := check(data.spec, examples)) is not None:
            row, text = fault
            raise DataError(f"data, split '{split}', {where(row)}: {text}.")
    return has_some


class CheckedBatches(PipelineWrapper):
    """A pipeline whose batches are compared with its spec as they are made, so that no step ever sees another one.

    Structure, shapes and dtypes are compared, which reads no array. So a fault is told alike however a run is cut.
    What the pipeline raises is told with its name, and the step or the split.
    """

    def __init__(self, batches: DataPipeline, data: DataPipeline, title: str, held: int, check: Check | None) -> None:
        """Wrap the batches that are fed to the steps.

        Args:
          batches: of this process, or of all members side by side.
          data: the pipeline of whole batches, whose `spec` evaluations have too.
          title: of the plugin, for messages.
          held: examples of a batch that this process makes.
          check: `Task.check` for the targets of streams; None if they were checked in memory, or need no check.

        Raises: DataError if the examples in memory are not what the spec says.
        """
        super().__init__(batches)
        self._whole, self._title, self._check = data.spec, title, check
        first, own = jax.tree.leaves(batches.spec)[0], jax.tree.leaves(data.spec)[0]
        self._lead = (*first.shape[: len(first.shape) - len(own.shape)], held)
        self._spec = _with_lead(data.spec, self._lead)
        self._evaluated = {name: spec for name, spec in data.spec.items() if name != "weights"}
        self._lying = self._spec if self.memory is None else self._in_memory()

    def _in_memory(self) -> PyTree:
        """Return the spec of a batch as it lies in memory, from which `prepare` must make one as `spec` has it."""
        arrays = self._examples.arrays
        sizes = {path: len(leaf) for path, leaf in named_leaves(arrays)}
        if len(set(sizes.values())) > 1:
            raise DataError(f"{self._title}: `arrays` has leaves of several lengths: {sizes}.", key="data")
        lying = _with_lead(arrays, self._lead)
        self._compared(jax.eval_shape(self.prepare, lying), self._spec, "`arrays`")
        return lying

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of a batch; their range is checked where they are used."""
        try:
            rows = self._examples.rows(seed, step)
        except PLUGIN_FAULTS as error:
            self._blame(error, f"step {step + 1}")
        if rows.shape != self._lead or rows.dtype.kind not in "iu":
            text = f"step {step + 1}: `rows` are {_shown(rows)}, expected int32{list(self._lead)}."
            raise DataError(f"{self._title}: {text}", key="data")
        return rows

    def gathered(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the examples of batches start, start + 1, … as they lie in memory."""
        return self._endless(lambda: PipelineWrapper.gathered(self, seed, start), self._lying, start)

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, …"""
        return self._endless(lambda: self.data.train(seed, start), self._spec, start)

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the batches of a split, whose size may be any."""
        number = 0
        try:
            for number, batch in enumerate(self.data.eval(split), 1):
                yield self._of_split(batch, f"split '{split}', batch {number}")
        except PLUGIN_FAULTS as error:
            self._blame(error, f"batch {number + 1} of split '{split}'")
        if number == 0:
            raise DataError(f"{self._title}: split '{split}' has no batch; expected every example once.", key="data")

    def _endless(self, make: Callable[[], Iterable[Batch]], spec: Batch, start: int) -> Iterator[Batch]:
        step = start
        try:
            for batch in make():
                yield self._learnable(self._compared(batch, spec, f"step {step + 1}"), f"step {step + 1}")
                step += 1
        except PLUGIN_FAULTS as error:
            self._blame(error, f"step {step + 1}")
        raise PluginError(
            f"{self._title}: the batches ended before step {step + 1}; expected `train` to go on without end, or "
            f"train.steps={step}.",
            key="data",
        )

    def _blame(self, error: BaseException, where: str) -> NoReturn:
        if isinstance(error, FrameworkError) or is_users(error):
            raise error
        raise PluginError(f"{self._title}: no batch for {where}: {told(error)}", key="data") from error

    def _of_split(self, batch: Batch, where: str) -> Batch:
        if not isinstance(batch, Mapping):
            return self._compared(batch, self._evaluated, where)
        weights, others = batch.get("weights"), {name: part for name, part in batch.items() if name != "weights"}
        size = next((np.shape(leaf)[:1] for leaf in jax.tree.leaves(others)), ())
        if size == (0,):
            raise DataError(f"{self._title}: {where} has no examples.", key="data")
        others = self._compared(others, _with_lead(self._evaluated, size or self._lead), where)
        if weights is None:
            return self._learnable(others, where)
        if np.shape(weights)[:1] != size or getattr(weights, "dtype", np.dtype(object)).kind not in "biuf":
            text = f"{where}: weights are {_shown(weights)}, expected float32{list(size)}."
            raise DataError(f"{self._title}: {text}", key="data")
        return self._learnable({**others, "weights": weights}, where)

    def _learnable(self, batch: Batch, where: str) -> Batch:
        if self._check is not None and (fault := self._check(self._whole, batch)) is not None:
            row, text = fault
            raise DataError(f"{self._title}: {where}, {numbered(row)}: {text}.", key="data")
        return batch

    def _compared(self, batch: Any, spec: Batch, where: str) -> Batch:
        """Return a batch that has the structure, shapes and dtypes of a spec, or tell the first difference."""
        leaves, structure = jax.tree.flatten(batch)
        wanted, expected = jax.tree.flatten(spec)
        if structure == expected and all(map(_alike, leaves, wanted)):
            return batch
        if (text := _difference(batch, spec)) is not None:
            raise DataError(f"{self._title}: {where}: {text}, as its `spec` says.", key="data")
        found = dict(named_leaves(batch))  # such as a mapping of another class
        return jax.tree.unflatten(expected, [found[path] for path, _ in named_leaves(spec)])


def check_range(rows: np.ndarray, size: int, start: int, title: str) -> None:
    """Check the indices of several steps, int [steps, ...], which compiled gathers take without a look.

    Raises: DataError naming the step.
    """
    if rows.size and (rows.max() >= size or rows.min() < -size):
        bad = (rows >= size) | (rows < -size)
        step = start + 1 + int(np.argwhere(bad)[0][0])
        raise DataError(
            f"{title}: step {step}: `rows` has the index {rows[bad][0]}, expected 0 to {size - 1}.", key="data"
        )


def _with_lead(spec: PyTree, lead: tuple[int, ...]) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape[1:]), leaf.dtype), spec)


def _alike(leaf: Any, wanted: Any) -> bool:
    return getattr(leaf, "shape", None) == wanted.shape and leaf.dtype == wanted.dtype


def _difference(batch: Any, spec: Batch) -> str | None:
    """Describe the first difference between a batch and its spec; None if their leaves are alike."""
    if not isinstance(batch, Mapping) or set(batch) != set(spec):
        return f"found {_keys(batch)}, expected {_keys(spec)}"
    for name in spec:
        found, wanted = (dict(named_leaves({name: each[name]})) for each in (batch, spec))
        if set(found) != set(wanted):
            there = _shown(batch[name]) if len(wanted) == 1 else f"the leaves {', '.join(found) or 'none'}"
            return f"{name} is {there}, expected {', '.join(f'{path} {_shown(leaf)}' for path, leaf in wanted.items())}"
        for path, leaf in wanted.items():
            if not _alike(found[path], leaf):
                return f"{path} is {_shown(found[path])}, expected {_shown(leaf)}"
    return None


def _keys(batch: Any) -> str:
    return f"the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else _shown(batch)


def _shown(value: Any) -> str:
    """Name an array by dtype and shape, and anything else by its type."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    return shapes_text(value) if is_array or value is None else f"a {type(value).__name__}"


def _check_weights(batch: Batch, split: str, where: Where) -> None:
    """Refuse weights of which no mean can be taken."""
    if "weights" not in batch:
        return
    weights = np.asarray(batch["weights"])
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        place = tuple(int(index) for index in np.argwhere(bad)[0])
        raise DataError(
            f"split '{split}', {where(place[0])}: found the weight {weights[place]}, expected a finite number from 0."
        )
    if not (weights >= np.finfo(np.float32).tiny).any():  # XLA takes smaller ones for 0
        raise DataError(f"split '{split}': all of its {len(weights)} weights are 0, expected one above 0.")
