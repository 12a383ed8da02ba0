"""Questions of callbacks to a run: predictions from a state, and examples of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from framework.api import Array, Batch, Members, PyTree, TrainState, View, layer_outputs
from framework.ensembles.evolution import plain
from framework.ensembles.members import part_of
from framework.errors import blaming, nearest
from framework.experiment import Experiment
from framework.tasks.ema import trained_params


def one_replica(tree: PyTree, members: Members | None = None) -> PyTree:
    """Return a state, or a part of one, as a function of one process and one model takes it, under every strategy.

    Of members the first is taken. Of arrays that every device holds whole, the copy of one device is taken, so that
    others need not compute. Arrays that are cut over devices stay where they are: a compiled function takes them so.

    Args:
      tree: as `on_state` is given it, in a process whose devices hold all of it.
      members: of the strategy.
    """
    if members is not None:
        tree = part_of(plain(tree) if isinstance(tree, TrainState) else tree, 0)
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if not all(leaf.is_fully_replicated for leaf in leaves):
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, tree)


def prediction(experiment: Experiment) -> Callable[[TrainState, PyTree], PyTree]:
    """Make `predict(state, inputs) -> outputs`, NumPy arrays; compiled once for each shape of the inputs."""
    predicted, members = experiment.task.predict, experiment.members
    if predicted is None:
        return _predicts_nothing
    outputs = jax.jit(predicted)

    def predict(state: TrainState, inputs: PyTree) -> PyTree:
        view = one_replica(View(trained_params(state), state.model_state, state.task_state), members)
        with jax.transfer_guard("allow"):  # it is the loop that debug=transfers watches
            return jax.device_get(outputs(view, inputs))

    return predict


def features(experiment: Experiment) -> Callable[[TrainState, PyTree], np.ndarray]:
    """Make `features(state, inputs) -> [N, D]`: the inputs of the last layer that has parameters.

    Of a model that shows no such layer they are its outputs.
    """
    predicted, members = experiment.task.predict, experiment.members
    if predicted is None:
        return _predicts_nothing
    scopes = {parameter.path.rpartition("/")[0] for parameter in experiment.parameters} - {""}

    @jax.jit
    def last(view: View, inputs: PyTree) -> Array:
        given = layer_outputs(predicted, view, inputs, part="inputs")
        paths = [path for path in given if {path, path.partition("/")[2]} & scopes]  # of the one model, or of several
        found = given[paths[-1]][-1] if paths else jax.tree.leaves(predicted(view, inputs))[0]
        return found.reshape(found.shape[0], -1)

    def asked(state: TrainState, inputs: PyTree) -> np.ndarray:
        view = one_replica(View(trained_params(state), state.model_state, state.task_state), members)
        with jax.transfer_guard("allow"):  # it is the loop that debug=transfers watches
            return np.asarray(jax.device_get(last(view, inputs)))

    return asked


def _predicts_nothing(*_: Any) -> PyTree:
    raise ValueError("the task names no function from inputs to outputs")


def first_examples(experiment: Experiment) -> Callable[[str, int], Batch]:
    """Make `examples(split, n) -> batch`: the first examples of a split, without those that only pad a batch.

    It raises ValueError for a split that the data do not have, and for n < 1.
    """
    data, title = experiment.data, experiment.plugins["data"].title

    def examples(split: str, n: int) -> Batch:
        known = {"train": "", "eval": data.splits[0], **{name: name for name in data.splits}}
        if split not in known:
            raise ValueError(f"examples of '{split}': the data have no such split.{nearest(split, known)}")
        if n < 1:
            raise ValueError(f"examples of '{split}': expected a number from 1, found {n}")
        with blaming(f"{title}: no examples of '{split}'", "data"):
            batches = iter(data.eval(known[split]) if known[split] else data.train(experiment.settings.seed))
            taken = list(_until(batches, n))
        names = [name for name in taken[0] if all(name in batch for batch in taken)]
        parts = [{name: batch[name] for name in names} for batch in taken]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)

    return examples


def _until(batches: Iterator[Batch], n: int) -> Iterator[Batch]:
    """Yield batches without their padding until they have n examples."""
    count = 0
    while count < n and (batch := next(batches, None)) is not None:
        batch = _without_padding(batch)
        count += len(jax.tree.leaves(batch)[0])
        yield batch


def _without_padding(batch: Batch) -> Batch:
    """Return the examples of some weight, as NumPy arrays."""
    weights: Any = batch.get("weights")
    if weights is None:
        return jax.tree.map(np.asarray, dict(batch))
    counted = (np.asarray(weights).reshape(len(weights), -1) > 0).any(axis=1)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[counted], dict(batch))
