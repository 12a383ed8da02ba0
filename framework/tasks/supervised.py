"""The supervised task: one step that fits a model's outputs to targets, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import (
    Array,
    Batch,
    Loss,
    Metric,
    Model,
    PyTree,
    TargetedLoss,
    Task,
    TrainState,
    Transform,
    as_metric,
)
from framework.errors import ConfigError, FrameworkError
from framework.ranges import beyond, bounds_of, declared
from framework.tasks.metrics import Collected, WeightedMean, collected, over_devices, weighted
from framework.tasks.precision import Scaled, scale_loss, unless_skipped
from framework.tasks.rng import example_keys, root_key, step_key, stream
from framework.tasks.targets import outside

Gradients = tuple[PyTree, dict[str, WeightedMean], PyTree]
"""Gradients of the summed loss, metrics by name, and the model's state after the batch."""

Differentiate = Callable[[TrainState, Batch, Array], Gradients]


def supervised(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Fit a model's outputs to targets.

    Losses and their weights are summed over examples, accumulated parts and devices; only then is the gradient of the
    sum divided by the summed weight. So one device, many devices, padded and masked batches agree to rounding, which a
    mean of means would not.

    Args:
      model: maps inputs to outputs.
      loss: `loss(outputs, batch) -> [B]`.
      optimizer: turns gradients into updates.
      metrics: by tag. In training they are computed on the step's own outputs, before its update.
      transforms: augmentations of training batches, in order; each is given a key for each example.
      accumulate: number of parts that a batch is cut into, of which one at a time is in memory.
    """
    metrics = {"loss": as_metric(loss), **metrics}
    summed = {name: metric for name, metric in metrics.items() if not metric.collect}
    gradients = _accumulated(_gradients(model, summed), accumulate)

    traced: list[Any] = []  # what `_outputs_of` returns, once a step is traced

    def init(key: Array, spec: Batch) -> TrainState:
        in_shape = jax.tree.map(lambda leaf: (-1, *leaf.shape[1:]), spec["inputs"])
        _, params, model_state = model.init(stream(key, "init"), in_shape)
        return TrainState(jnp.zeros([], jnp.int32), params, model_state, optimizer.init(params), key)

    def train_step(
        state: TrainState, batch: Batch, axis: str | None = None
    ) -> tuple[TrainState, dict[str, WeightedMean]]:
        key = step_key(state.key, state.step, axis)
        batch = _augment(transforms, stream(step_key(state.key, state.step), "augment"), batch, axis)
        grads, means, model_state = gradients(state, batch, stream(key, "model"))
        grads, means = _sum_over(axis, (grads, means))
        # A batch whose weights are all 0 has gradient 0, not 0 / 0.
        grads = jax.tree.map(lambda g: g / jnp.maximum(means["loss"].count, 1e-8).astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        model_state = unless_skipped(opt_state, model_state, state.model_state)
        after = TrainState(state.step + 1, params, model_state, opt_state, state.key)
        told = _hyperparameters(opt_state)
        if both := sorted(told.keys() & means.keys()):
            text = "the run logs its own, a hyper-parameter that the optimizer schedules; choose another tag"
            raise ConfigError(f"{text}, such as {both[0]}_metric.", key=f"metrics.{both[0]}")
        return after, {**told, **means}

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> dict[str, WeightedMean]:
        with declared() as noted:
            outputs, _ = model.apply(state.params, state.model_state, batch["inputs"], key=None, train=False)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), outputs)
        traced[:] = [(shapes, bounds_of(batch["inputs"], noted))]
        measured = _measure(metrics, outputs, batch)
        return {name: over_devices(mean, axis) for name, mean in measured.items()}

    def check(spec: Batch, examples: Batch) -> tuple[int, str] | None:
        if not traced:
            traced.append(_outputs_of(model, spec))
        outputs, bounds = traced[0]
        fault = outside(loss, examples, outputs) if isinstance(loss, TargetedLoss) else None
        return fault or beyond(examples.get("inputs"), examples.get("weights"), bounds)

    results = {name: metric.result for name, metric in metrics.items()}
    directions = {**{name: metric.higher_is_better for name, metric in metrics.items()}, "loss": False}
    return Task(init, train_step, eval_step, results, check, directions)


def _measure(metrics: Mapping[str, Metric], outputs: PyTree, batch: Batch) -> dict[str, Any]:
    return {name: _mean_of(name, metric, outputs, batch) for name, metric in metrics.items()}


def _mean_of(name: str, metric: Metric, outputs: PyTree, batch: Batch) -> WeightedMean | Collected:
    try:
        return (collected if metric.collect else weighted)(metric.values(outputs, batch), batch.get("weights"))
    except FrameworkError as error:  # a metric does not know the config key that chose it
        error.key = error.key or (name if name == "loss" else f"metrics.{name}")
        raise


def _outputs_of(model: Model, spec: Batch) -> tuple[PyTree, list[int | None]]:
    """Return the shapes of a model's outputs for a batch, which tell the range of classes, and bounds of its inputs."""
    bounds: list[int | None] = []

    def run(key: Array, inputs: PyTree) -> PyTree:
        _, params, state = model.init(key, jax.tree.map(lambda leaf: (-1, *leaf.shape[1:]), inputs))
        with declared() as noted:
            outputs, _ = model.apply(params, state, inputs, key=None, train=False)
        bounds[:] = bounds_of(inputs, noted)
        return outputs

    return jax.eval_shape(run, root_key(0), spec["inputs"]), bounds


def _augment(transforms: Sequence[Transform], key: Array, batch: Batch, axis: str | None) -> Batch:
    count = jax.tree.leaves(batch)[0].shape[0]
    for index, transform in enumerate(transforms):
        batch = transform(example_keys(jax.random.fold_in(key, index), count, axis), batch)
    return batch


def _gradients(model: Model, metrics: Mapping[str, Metric]) -> Differentiate:
    """Make the function that differentiates the summed loss of a whole batch."""

    def objective(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Any]:
        outputs, model_state = model.apply(params, state.model_state, batch["inputs"], key=key, train=True)
        means = _measure(metrics, outputs, batch)
        return scale_loss(means["loss"].total, state.opt_state), (means, model_state)

    def gradients(state: TrainState, batch: Batch, key: Array) -> Gradients:
        grads, (means, model_state) = jax.grad(objective, has_aux=True)(state.params, state, batch, key)
        return grads, means, model_state

    return gradients


def _accumulated(gradients: Differentiate, parts: int) -> Differentiate:
    """Differentiate a batch in parts: gradients and metrics are summed, the model's state goes from part to part."""
    if parts == 1:
        return gradients

    def accumulate(state: TrainState, batch: Batch, key: Array) -> Gradients:
        def add(sums: Gradients, part: tuple[Array, Batch]) -> tuple[Gradients, None]:
            index, examples = part
            grads, means, model_state = sums
            here = state._replace(model_state=model_state)
            *more, model_state = gradients(here, examples, jax.random.fold_in(key, index))
            grads, means = jax.tree.map(jnp.add, (grads, means), tuple(more))
            return (grads, means, model_state), None

        # Part i takes examples i, i + parts, …, so that each device has some of every part.
        cut = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)
        grads, means, _ = jax.eval_shape(gradients, state, jax.tree.map(lambda leaf: leaf[0], cut), key)
        grads, means = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (grads, means))
        return jax.lax.scan(add, (grads, means, state.model_state), (jnp.arange(parts), cut))[0]

    return accumulate


def _sum_over(axis: str | None, tree: Any) -> Any:
    return tree if axis is None else jax.lax.psum(tree, axis)


def _hyperparameters(opt_state: PyTree) -> dict[str, WeightedMean]:
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


def predictor(model: Model, params: PyTree, model_state: PyTree) -> Callable[[PyTree], PyTree]:
    """Compile the trained model as a function of inputs [B, ...]."""

    @jax.jit
    def predict(inputs: PyTree) -> PyTree:
        return model.apply(params, model_state, inputs, key=None, train=False)[0]

    return predict
