"""A task as the functions that probes are made of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Problem, PyTree, Task, TrainState, View
from framework.tasks.ema import Averaged


def problem_of(task: Task) -> Problem:
    """Return losses, update and predictions of a task as functions of its parameters.

    The losses are those of the task's evaluation, so that no layer draws noise and examples do not meet in a batch
    normalization. They have the parameters themselves, where an evaluation would take their average.
    """

    def loss(params: PyTree, state: TrainState, batch: Batch) -> Array:
        total, count = task.eval_step(_with_params(state, params), batch)["loss"]
        return (total / jnp.maximum(count, 1e-8)).astype(jnp.float32)  # 0 where no example counts

    def losses(params: PyTree, state: TrainState, batch: Batch) -> Array:
        alone = jax.tree.map(lambda leaf: leaf[:, None], dict(batch))
        return jax.vmap(lambda example: loss(params, state, example))(alone)

    def update(state: TrainState, batch: Batch) -> TrainState:
        return task.train_step(state, batch)[0]

    def predict(params: PyTree, state: TrainState, inputs: PyTree) -> PyTree:
        assert task.predict is not None
        return task.predict(View(params, state.model_state, state.task_state), inputs)

    def inputs(batch: Batch, key: Array) -> PyTree:
        if task.inputs is None:
            return batch["inputs"]
        count = jax.tree.leaves(batch)[0].shape[0]
        spec = task.inputs({name: jax.eval_shape(lambda part: part, part) for name, part in batch.items()})
        leaves, structure = jax.tree.flatten(spec)
        keys = jax.random.split(key, len(leaves))
        drawn = [_drawn(one, count, leaf) for one, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    return Problem(losses, loss, update, None if task.predict is None else predict, inputs)


def _drawn(key: Array, count: int, leaf: Any) -> Array:
    """Draw normal noise of a shape for so many examples; zeros where it holds no real numbers."""
    shape, is_real = (count, *leaf.shape[1:]), jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.random.normal(key, shape, leaf.dtype) if is_real else jnp.zeros(shape, leaf.dtype)


def _with_params(state: TrainState, params: PyTree) -> TrainState:
    opt_state = state.opt_state
    kept = opt_state._replace(average=params) if isinstance(opt_state, Averaged) else opt_state
    return state._replace(params=params, opt_state=kept)
