"""Moving averages of the parameters, used for evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, PyTree, Task, TrainState, View
from framework.steps.metrics import WeightedMean


class Averaged(NamedTuple):
    """An optimizer's state beside the average of the parameters that it made."""

    average: PyTree  # like the parameters
    inner: PyTree  # the optimizer's own state


def averaged(task: Task, decay: float) -> Task:
    """Evaluate a task with an exponential moving average of its parameters.

    The average after n updates is the weighted mean of the n results, the last with weight 1, the one before it with
    `decay`, and so on. The initial parameters have no part in it, and it needs no correction. Polyak and Juditsky 1992
    for averaging; Kingma and Ba 2015, arXiv:1412.6980, section 3, for the correction that is built in.

    Args:
      task: the task to train; its steps see its own parameters and optimizer state.
      decay: in (0, 1); about the last 1 / (1 - decay) updates count.
    """

    def init(key: Array, spec: Batch) -> TrainState:
        state = task.init(key, spec)
        # Copies, since a step that may overwrite its state accepts no buffer twice.
        return state._replace(opt_state=Averaged(jax.tree.map(jnp.copy, state.params), state.opt_state))

    def train_step(
        state: TrainState, batch: Batch, axis: str | None = None
    ) -> tuple[TrainState, Mapping[str, WeightedMean]]:
        average, inner = state.opt_state
        after, means = task.train_step(state._replace(opt_state=inner), batch, axis)
        # (1 - decay) / (1 - decay ** n), whose denominator would cancel in float32.
        share = (decay - 1) / jnp.expm1(after.step.astype(jnp.float32) * math.log(decay))
        average = jax.tree.map(lambda old, new: old + share.astype(new.dtype) * (new - old), average, after.params)
        return after._replace(opt_state=Averaged(average, after.opt_state)), means

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> Mapping[str, WeightedMean]:
        average, inner = state.opt_state
        return task.eval_step(state._replace(params=average, opt_state=inner), batch, axis)

    return task._replace(init=init, train_step=train_step, eval_step=eval_step)


def trained_params(state: TrainState) -> PyTree:
    """Return the parameters that a state is evaluated with."""
    return state.opt_state.average if isinstance(state.opt_state, Averaged) else state.params


def view_of(state: TrainState) -> View:
    """Return what a trained model needs of a state."""
    return View(trained_params(state), state.model_state, state.task_state)


def in_checkpoint(params: PyTree, is_averaged: bool) -> dict[str, Any]:
    """Arrange those parameters as the part of a saved state that holds them."""
    return {"opt_state": {"average": params}} if is_averaged else {"params": params}


def from_checkpoint(part: Mapping[str, Any]) -> PyTree:
    """Return the parameters from a part of a state that `in_checkpoint` arranged."""
    return part["opt_state"]["average"] if "opt_state" in part else part["params"]
