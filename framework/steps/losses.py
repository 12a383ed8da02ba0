"""Losses, metrics and augmentations as a step calls them, and what it tells of an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.contracts.components import Array, Batch, Loss, Metric, TargetedLoss, Transform, WeightedLoss
from framework.steps.metrics import WeightedMean
from framework.steps.precision import Scaled
from framework.steps.rng import example_keys
from framework.trees import PyTree


def augmented(transforms: Sequence[Transform], key: Array, batch: Batch, axis: str | None) -> Batch:
    """Transform a training batch, each example with a key of its own."""
    count = jax.tree.leaves(batch)[0].shape[0]
    for index, transform in enumerate(transforms):
        batch = transform(example_keys(jax.random.fold_in(key, index), count, axis), batch)
    return batch


def keyed(loss: Loss) -> Callable[[PyTree, Batch, Array | None], Any]:
    """Return `loss(outputs, batch, key)`, from a loss that has a parameter `key` or has none."""
    function: Any = loss.values if isinstance(loss, TargetedLoss | WeightedLoss) else loss
    try:
        takes = "key" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # of C, or of a library that hides it
        takes = False
    return (lambda outputs, batch, key: function(outputs, batch, key=key)) if takes else _keyless(function)


def _keyless(loss: Callable[[PyTree, Batch], Any]) -> Callable[[PyTree, Batch, Array | None], Any]:
    return lambda outputs, batch, key: loss(outputs, batch)


def measured(metrics: Mapping[str, Metric], outputs: PyTree, batch: Batch, train: bool = False) -> dict[str, Any]:
    """Return the values of metrics by tag; in training without those that keep the statistics of all examples."""
    counted = {name: metric for name, metric in metrics.items() if not (train and metric.collect)}
    return {name: metric.values(outputs, batch) for name, metric in counted.items()}


def hyperparameters(opt_state: PyTree) -> dict[str, WeightedMean]:
    """Report the hyper-parameters that the update used: the learning rate, those with a schedule, and the loss scale.

    `optax.inject_hyperparams` keeps them in `hyperparams`, and the states of their schedules in `hyperparams_states`.
    """
    given, scheduled = _merged(opt_state, "hyperparams"), _merged(opt_state, "hyperparams_states")
    told = {name: value for name, value in given.items() if name == "learning_rate" or name in scheduled}
    if isinstance(opt_state, Scaled):
        told["loss_scale"] = opt_state.scale
    one = jnp.ones([], jnp.float32)
    return {name: WeightedMean(jnp.asarray(value, jnp.float32), one) for name, value in sorted(told.items())}


def _merged(tree: PyTree, field: str) -> dict[str, Any]:
    """Merge all mappings that stand under a field's name; the first entry of a name counts."""
    found = optax.tree_utils.tree_get_all_with_path(tree, field)
    return {name: value for _, mapping in reversed(found) for name, value in mapping.items()}
