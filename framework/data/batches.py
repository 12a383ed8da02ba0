"""Checks of data before and during a run: examples against what a task can learn from, batches against their spec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from framework.contracts.components import Batch
from framework.data.pipeline import DataPipeline, InMemory, PipelineWrapper, numbered
from framework.errors import PLUGIN_FAULTS, DataError, FrameworkError, PluginError, is_users, told
from framework.trees import PyTree, named_leaves, shapes_text

Check = Callable[[Batch, Batch], tuple[int, str] | None]
"""`Task.check`."""

PIECE = 1024
"""Examples that are prepared and checked at a time."""

FEW = 32
"""Examples that tell the range of what is made of bytes, such as normalized pixels."""


class Form(NamedTuple):
    """The spec of a batch beside its leaves, which are compared with those of every batch."""

    spec: PyTree
    leaves: list[Any]
    structure: Any


PARTS = ("inputs", "targets", "weights")
"""Keys of a batch."""

SHAPE = "{inputs: [B, ...] or nested, targets: [B, ...] or nested, weights: [B] or [B, T]}"
"""The shape of a batch, for messages."""


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
    if others := [name for name in spec if name not in PARTS]:
        refuse(f"`spec` has the key '{others[0]}'; a batch is {SHAPE}: put what a model takes below 'inputs'")
    for path, leaf in named_leaves(spec):
        if not (hasattr(leaf, "dtype") and getattr(leaf, "shape", ())):
            refuse(f"`spec` has {path} = {leaf!r}, expected a jax.ShapeDtypeStruct [B, ...]")
    sizes = {path: leaf.shape[0] for path, leaf in named_leaves(spec)}
    if len(set(sizes.values())) > 1:
        refuse(f"`spec` has leaves of several batch sizes: {sizes}")
    if _is_column(spec.get("weights")):
        refuse(f"`spec` has weights {_shown(spec['weights'])}, {COLUMN}")
    if isinstance(splits, str) or not splits or not all(isinstance(split, str) for split in splits):
        refuse(f"expected one name or more in `splits`, found {splits!r}")
    if not isinstance(epoch, int | np.integer) or epoch < 1:
        refuse(f"expected a `steps_per_epoch` from 1, found {epoch!r}")


def check_examples(data: DataPipeline, check: Check | None) -> frozenset[str]:
    """Check that a task can learn from all examples of a pipeline that has them in memory.

    Weights must be finite numbers from 0, one of them above it. Numbers must fit the dtypes that devices compute in.

    Args:
      data: a pipeline; one that yields no `examples` is looked at as far as its training examples lie in memory.
      check: `Task.check`; None if the task checks nothing.

    Returns: the names of the splits that were checked.

    Raises: DataError that names the split, file and row of the first one that does not fit.
    """
    checked = set()
    for split, examples, where in data.examples():
        checked.add(split)
        if (fault := _fault(check, data.spec, examples)) is not None:
            row, text = fault
            raise DataError(f"data, split '{split}', {where(row)}: {text}.")
        if not _counts(examples):
            raise DataError(
                f"split '{split}': all of its {len(examples['weights'])} weights are 0, expected one above 0."
            )
    if (memory := data.in_memory()) is not None:
        count = min((len(leaf) for leaf in jax.tree.leaves(memory.arrays)), default=0)
        if "train" not in checked:
            _check_prepared(memory, check, count)
        elif check is not None and _dtypes(memory.arrays) != _dtypes(memory.spec):
            _check_prepared(memory, check, min(count, FEW))
        checked.add("train")
    return frozenset(checked)


def _check_prepared(memory: InMemory, check: Check | None, count: int) -> None:
    """Check the first training examples of which `prepare` makes something else, some at a time."""
    for first in range(0, count, PIECE):
        piece = jax.tree.map(lambda leaf, first=first: leaf[first : min(first + PIECE, count)], memory.arrays)
        if (fault := _fault(check, memory.spec, memory.prepare(piece))) is not None:
            row, text = fault
            raise DataError(f"data, split 'train', {numbered(first + row)}: {text}.")


class CheckedBatches(PipelineWrapper):
    """A pipeline whose batches are compared with its spec as they are made, so that no step ever sees another one.

    Structure, shapes and dtypes are compared, which reads no array. Of streams, weights, targets and tokens are looked
    at too, in the thread that makes them. So a fault is told alike however a run is cut. What the pipeline raises is
    told with its name, and the step or the split.
    """

    def __init__(
        self,
        batches: DataPipeline,
        data: DataPipeline,
        title: str,
        held: int,
        check: Check | None,
        checked: Collection[str] = (),
    ) -> None:
        """Wrap the batches that are fed to the steps.

        Args:
          batches: of this process, or of all members side by side.
          data: the pipeline of whole batches, whose `spec` evaluations have too.
          title: of the plugin, for messages.
          held: examples of a batch that this process makes.
          check: `Task.check`; None if the task checks nothing.
          checked: splits whose examples were checked in memory.

        Raises: DataError if the examples in memory are not what the spec says.
        """
        super().__init__(batches)
        self._whole, self._title, self._check, self._checked = data.spec, title, check, checked
        first, own = jax.tree.leaves(batches.spec)[0], jax.tree.leaves(data.spec)[0]
        self._is_whole = held == own.shape[0]
        self._lead = (*first.shape[: len(first.shape) - len(own.shape)], held)
        self._form = _form(_with_lead(data.spec, self._lead))
        evaluated = {name: spec for name, spec in data.spec.items() if name != "weights"}
        self._evaluated = cache(lambda size: _form(_with_lead(evaluated, size)))
        self._lying = self._form if self.memory is None else self._in_memory()

    def _in_memory(self) -> Form:
        """Return the form of a batch as it lies in memory, from which `prepare` must make one as `spec` has it."""
        arrays = self._examples.arrays
        sizes = {path: len(leaf) for path, leaf in named_leaves(arrays)}
        if len(set(sizes.values())) > 1:
            raise DataError(f"{self._title}: `arrays` has leaves of several lengths: {sizes}.", key="data")
        lying = _with_lead(arrays, self._lead)
        self._compared(jax.eval_shape(self.prepare, lying), self._form, "`arrays`")
        return _form(lying)

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
        return self._endless(lambda: self.data.train(seed, start), self._form, start)

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the batches of a split, whose size may be any."""
        number, counts = 0, split in self._checked or not self._is_whole
        try:
            for number, batch in enumerate(self.data.eval(split), 1):
                found = self._of_split(batch, split, f"split '{split}', batch {number}")
                counts = counts or _counts(found)
                yield found
        except PLUGIN_FAULTS as error:
            self._blame(error, f"batch {number + 1} of split '{split}'")
        if number == 0:
            raise DataError(f"{self._title}: split '{split}' has no batch; expected every example once.", key="data")
        if not counts:
            raise DataError(
                f"{self._title}: split '{split}': all of its weights are 0, expected one above 0.", key="data"
            )

    def _endless(self, make: Callable[[], Iterable[Batch]], form: Form, start: int) -> Iterator[Batch]:
        step = start
        try:
            for batch in make():
                where = f"step {step + 1}"
                found = self._compared(batch, form, where)
                if "train" not in self._checked:
                    for whose, part in self._by_member(found).items():
                        self._learnable(part, f"{where}{whose}")
                yield found
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

    def _of_split(self, batch: Batch, split: str, where: str) -> Batch:
        if not isinstance(batch, Mapping):
            return self._compared(batch, self._evaluated(self._lead[-1:]), where)
        weights, others = batch.get("weights"), {name: part for name, part in batch.items() if name != "weights"}
        size = next((np.shape(leaf)[:1] for leaf in jax.tree.leaves(others)), ())
        if size == (0,):
            raise DataError(f"{self._title}: {where} has no examples.", key="data")
        others = self._compared(others, self._evaluated(size or self._lead[-1:]), where)
        if weights is not None:
            if np.shape(weights)[:1] != size or getattr(weights, "dtype", np.dtype(object)).kind not in "biuf":
                text = f"{where}: weights are {_shown(weights)}, expected float32{list(size)}."
                raise DataError(f"{self._title}: {text}", key="data")
            if _is_column(weights):
                text = f"{where}: weights are {_shown(weights)}, {COLUMN}."
                raise DataError(f"{self._title}: {text}", key="data")
            others = {**others, "weights": weights}
        return others if split in self._checked else self._learnable(others, where)

    def _by_member(self, batch: Batch) -> dict[str, Batch]:
        """Return the batch of each member by its name in words, where members have batches of their own."""
        if len(self._lead) == 1:
            return {"": batch}
        return {f", member {m}": jax.tree.map(lambda leaf, m=m: leaf[m], batch) for m in range(self._lead[0])}

    def _learnable(self, batch: Batch, where: str) -> Batch:
        """Return a batch from which the task can learn."""
        if (fault := _fault(self._check, self._whole, batch)) is not None:
            row, text = fault
            raise DataError(f"{self._title}: {where}, {numbered(row)}: {text}.", key="data")
        return batch

    def _compared(self, batch: Any, form: Form, where: str) -> Batch:
        """Return a batch that has the structure, shapes and dtypes of a spec, or tell the first difference."""
        leaves, structure = jax.tree.flatten(batch)
        if structure == form.structure and all(map(_alike, leaves, form.leaves)):
            return batch
        spec = form.spec
        if (text := _difference(batch, spec)) is not None:
            raise DataError(f"{self._title}: {where}: {text}, as its `spec` says.", key="data")
        found = dict(named_leaves(batch))  # such as a mapping of another class
        return jax.tree.unflatten(form.structure, [found[path] for path, _ in named_leaves(spec)])


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


def _form(spec: PyTree) -> Form:
    return Form(spec, *jax.tree.flatten(spec))


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


WEIGHTLESS = "weights are 0, expected one above 0"

COLUMN = "expected one number for each example, or for each position of a sequence; drop the last axis"


def _is_column(weights: Any) -> bool:
    """Tell whether weights are a column, [N, 1], which would be spread over the examples of a batch."""
    return np.ndim(weights) > 1 and np.shape(weights)[-1] == 1


def _dtypes(batch: Batch) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(batch["inputs"])]


def _counts(batch: Batch) -> bool:
    """Tell whether an example of a batch counts."""
    # XLA takes smaller numbers for 0.
    return "weights" not in batch or bool((np.asarray(batch["weights"]) >= np.finfo(np.float32).tiny).any())


def _fault(check: Check | None, spec: Batch, batch: Batch) -> tuple[int, str] | None:
    """Find the first example from which cannot be learnt: its row, and what was found and expected."""
    return _unfit_weight(batch) or _beyond_devices(batch) or (None if check is None else check(spec, batch))


def _unfit_weight(batch: Batch) -> tuple[int, str] | None:
    """Find a weight of which no mean can be taken."""
    weights = np.asarray(batch.get("weights", ()))
    if not weights.size or (weights.min() >= 0 and np.isfinite(weights.max())):
        return None
    place = tuple(int(index) for index in np.argwhere(~(np.isfinite(weights) & (weights >= 0)))[0])
    return place[0], f"found the weight {weights[place]}, expected a finite number from 0"


def _beyond_devices(batch: Batch) -> tuple[int, str] | None:
    """Find a number that a device, which computes in 32 bits, would take for another one."""
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    for path, leaf in named_leaves(batch):
        if (narrow := NARROW.get(str(leaf.dtype))) is None or not leaf.size:
            continue
        limits = np.finfo(narrow) if leaf.dtype.kind == "f" else np.iinfo(narrow)
        bad = (leaf < limits.min) | (leaf > limits.max)
        if leaf.dtype.kind == "f":
            bad &= np.isfinite(leaf)
        if bad.any():
            place = tuple(int(index) for index in np.argwhere(bad)[0])
            return place[0], f"found {leaf[place]} in {path} {leaf.dtype}, expected numbers that fit {narrow}"
    return None


NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}
"""The dtypes by which JAX silently takes those of 64 bits."""
