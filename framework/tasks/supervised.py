"""What a step does, as pure functions: the supervised task of a model, a loss and an optimizer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import Array, Batch, Loss, Metric, Model, PyTree, Task, TrainState, Transform, as_metric
from framework.errors import FrameworkError
from framework.tasks.metrics import WeightedMean, weighted
from framework.tasks.precision import Scaled, scale_loss, unless_skipped
from framework.tasks.rng import step_key, stream

Gradients = tuple[PyTree, dict[str, WeightedMean], PyTree]
"""Of the summed loss, beside the means and the model's state after the batch."""

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

    The gradient is that of the weighted sum of losses, divided by the summed weight after both were summed over the
    devices: so one device, many devices, padded and masked batches agree to rounding, where a mean of means would not.

    Args:
      model: inputs to outputs.
      loss: outputs and batch to [B].
      optimizer: gradients to updates.
      metrics: by tag; computed in training on the step's own outputs, before its update.
      transforms: augmentations of training batches, in order, each with a key of its own.
      accumulate: into how many parts a batch is cut, of which one at a time is in memory.
    """
    metrics = {"loss": as_metric(loss), **metrics}
    gradients = _accumulated(_gradients(model, metrics), accumulate)

    def init(key: Array, spec: Batch) -> TrainState:
        in_shape = jax.tree.map(lambda leaf: (-1, *leaf.shape[1:]), spec["inputs"])
        _, params, model_state = model.init(stream(key, "init"), in_shape)
        return TrainState(jnp.zeros([], jnp.int32), params, model_state, optimizer.init(params), key)

    def train_step(
        state: TrainState, batch: Batch, axis: str | None = None
    ) -> tuple[TrainState, dict[str, WeightedMean]]:
        key = step_key(state.key, state.step, axis)
        batch = _augment(transforms, stream(key, "augment"), batch)
        grads, means, model_state = gradients(state, batch, stream(key, "model"))
        grads, means = _sum_over(axis, (grads, means))
        # A batch whose weights are all 0 has gradient 0, not 0 / 0.
        grads = jax.tree.map(lambda g: g / jnp.maximum(means["loss"].count, 1e-8).astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        model_state = unless_skipped(opt_state, model_state, state.model_state)
        after = TrainState(state.step + 1, params, model_state, opt_state, state.key)
        return after, {**_hyperparameters(opt_state), **means}

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> dict[str, WeightedMean]:
        outputs, _ = model.apply(state.params, state.model_state, batch["inputs"], key=None, train=False)
        return _sum_over(axis, _measure(metrics, outputs, batch))

    return Task(init, train_step, eval_step, {name: metric.result for name, metric in metrics.items()})


def _measure(metrics: Mapping[str, Metric], outputs: PyTree, batch: Batch) -> dict[str, WeightedMean]:
    return {name: _mean_of(name, metric, outputs, batch) for name, metric in metrics.items()}


def _mean_of(name: str, metric: Metric, outputs: PyTree, batch: Batch) -> WeightedMean:
    try:
        return weighted(metric.values(outputs, batch), batch.get("weights"))
    except FrameworkError as error:  # it does not know by which key it was chosen
        raise type(error)(f"{name if name == 'loss' else f'metrics.{name}'}: {error}") from error


def _augment(transforms: Sequence[Transform], key: Array, batch: Batch) -> Batch:
    for index, transform in enumerate(transforms):
        batch = transform(jax.random.fold_in(key, index), batch)
    return batch


def _gradients(model: Model, metrics: Mapping[str, Metric]) -> Differentiate:
    """The gradients of the summed loss of a batch that is taken whole."""

    def objective(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Any]:
        outputs, model_state = model.apply(params, state.model_state, batch["inputs"], key=key, train=True)
        means = _measure(metrics, outputs, batch)
        return scale_loss(means["loss"].total, state.opt_state), (means, model_state)

    def gradients(state: TrainState, batch: Batch, key: Array) -> Gradients:
        grads, (means, model_state) = jax.grad(objective, has_aux=True)(state.params, state, batch, key)
        return grads, means, model_state

    return gradients


def _accumulated(gradients: Differentiate, parts: int) -> Differentiate:
    """The same of a batch in parts: gradients and means are summed, the model's state goes from part to part."""
    if parts == 1:
        return gradients

    def accumulate(state: TrainState, batch: Batch, key: Array) -> Gradients:
        def add(sums: Gradients, part: tuple[Array, Batch]) -> tuple[Gradients, None]:
            index, examples = part
            here = state._replace(model_state=sums[2])
            grads, means, model_state = gradients(here, examples, jax.random.fold_in(key, index))
            return (*jax.tree.map(jnp.add, sums[:2], (grads, means)), model_state), None

        # Part i takes examples i, i + parts, …: where examples lie on several devices in order, each has some of them.
        cut = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)
        shapes = jax.eval_shape(gradients, state, jax.tree.map(lambda leaf: leaf[0], cut), key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[:2])
        return jax.lax.scan(add, (*zeros, state.model_state), (jnp.arange(parts), cut))[0]

    return accumulate


def _sum_over(axis: str | None, tree: Any) -> Any:
    return tree if axis is None else jax.lax.psum(tree, axis)


def _hyperparameters(opt_state: PyTree) -> dict[str, WeightedMean]:
    """What an update used of the learning rate, as `optax.inject_hyperparams` keeps it, and of all with a schedule."""
    values, told = {}, {"learning_rate", "loss_scale"}
    for path, leaf in jax.tree.flatten_with_path(opt_state)[0]:
        if found := re.search(r"\.hyperparams(_states)?\['(\w+)'\]", jax.tree_util.keystr(path)):
            if found[1]:
                told.add(found[2])
            else:
                values.setdefault(found[2], leaf)
    if isinstance(opt_state, Scaled):
        values["loss_scale"] = opt_state.scale
    one = jnp.ones([], jnp.float32)
    return {name: WeightedMean(jnp.asarray(values[name], jnp.float32), one) for name in sorted(told & values.keys())}


def predictor(model: Model, params: PyTree, model_state: PyTree) -> Callable[[PyTree], PyTree]:
    """The trained model as a compiled function of inputs [B, ...]."""

    @jax.jit
    def predict(inputs: PyTree) -> PyTree:
        return model.apply(params, model_state, inputs, key=None, train=False)[0]

    return predict
