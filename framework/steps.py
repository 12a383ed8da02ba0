"""What a step does, as pure functions: the supervised task of a model, a loss and an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import Array, Batch, Loss, Metric, Model, PyTree, Task, TrainState, Transform, as_metric
from framework.errors import FrameworkError
from framework.keys import step_key, stream
from framework.mean import Mean, weighted


def supervised(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    transforms: Sequence[Transform] = (),
) -> Task:
    """Fit a model's outputs to targets.

    The gradient is that of the weighted sum of losses, divided by the summed weight after both were summed over the
    devices: so one device, many devices, padded and masked batches agree to rounding, where a mean of means would not.

    Args:
      model: inputs to outputs.
      loss: outputs and batch to [B].
      optimizer: gradients to updates.
      metrics: by tag; computed in training on the step's own outputs, before its update.
      transforms: augmentations of training batches, in order, each with a key of its own.
    """
    metrics = {"loss": as_metric(loss), **metrics}

    def init(key: Array, spec: Batch) -> TrainState:
        in_shape = jax.tree.map(lambda leaf: (-1, *leaf.shape[1:]), spec["inputs"])
        _, params, model_state = model.init(stream(key, "init"), in_shape)
        return TrainState(jnp.zeros([], jnp.int32), params, model_state, optimizer.init(params), key)

    def objective(
        params: PyTree, model_state: PyTree, batch: Batch, key: Array
    ) -> tuple[Array, tuple[dict[str, Mean], PyTree]]:
        outputs, model_state = model.apply(params, model_state, batch["inputs"], key=key, train=True)
        means = _measure(metrics, outputs, batch)
        return means["loss"].total, (means, model_state)

    def train_step(state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, dict[str, Mean]]:
        key = step_key(state.key, state.step, axis)
        batch = _augment(transforms, stream(key, "augment"), batch)
        gradient = jax.grad(objective, has_aux=True)
        grads, (means, model_state) = gradient(state.params, state.model_state, batch, stream(key, "model"))
        grads, means = _sum_over(axis, (grads, means))
        # A batch whose weights are all 0 has gradient 0, not 0 / 0.
        grads = jax.tree.map(lambda g: g / jnp.maximum(means["loss"].count, 1e-8).astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, model_state, opt_state, state.key), {**means, **_rate(opt_state)}

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> dict[str, Mean]:
        outputs, _ = model.apply(state.params, state.model_state, batch["inputs"], key=None, train=False)
        return _sum_over(axis, _measure(metrics, outputs, batch))

    results = {name: metric.result for name, metric in metrics.items()}
    return Task(init, train_step, eval_step, {**results, "learning_rate": lambda total, count: float(total / count)})


def _measure(metrics: Mapping[str, Metric], outputs: PyTree, batch: Batch) -> dict[str, Mean]:
    return {name: _mean_of(name, metric, outputs, batch) for name, metric in metrics.items()}


def _mean_of(name: str, metric: Metric, outputs: PyTree, batch: Batch) -> Mean:
    try:
        return weighted(metric.values(outputs, batch), batch.get("weights"))
    except FrameworkError as error:  # it does not know by which key it was chosen
        raise type(error)(f"{name if name == 'loss' else f'metrics.{name}'}: {error}") from error


def _augment(transforms: Sequence[Transform], key: Array, batch: Batch) -> Batch:
    for index, transform in enumerate(transforms):
        batch = transform(jax.random.fold_in(key, index), batch)
    return batch


def _sum_over(axis: str | None, tree: Any) -> Any:
    return tree if axis is None else jax.lax.psum(tree, axis)


def _rate(opt_state: PyTree) -> dict[str, Mean]:
    """The learning rate that this update used, where the optimizer keeps it in its state (optax.inject_hyperparams)."""
    leaves, _ = jax.tree.flatten_with_path(opt_state)
    rates = [leaf for path, leaf in leaves if jax.tree_util.keystr(path).endswith(".hyperparams['learning_rate']")]
    one = jnp.ones([], jnp.float32)
    return {"learning_rate": Mean(jnp.asarray(rates[0], jnp.float32), one)} if rates else {}


def predictor(model: Model, params: PyTree, model_state: PyTree) -> Callable[[PyTree], PyTree]:
    """The trained model as a compiled function of inputs [B, ...]."""

    @jax.jit
    def predict(inputs: PyTree) -> PyTree:
        return model.apply(params, model_state, inputs, key=None, train=False)[0]

    return predict
