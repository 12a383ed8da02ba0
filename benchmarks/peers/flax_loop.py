"""Flax NNX: a jitted step on module and optimizer in a Python loop, as its guide writes it."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx  # pyright: ignore[reportMissingImports]

from benchmarks.handwritten import batches
from benchmarks.images import load
from benchmarks.workloads import SHAPE, Description, Marks, Plan, Workload


def run(workload: Workload, plan: Plan) -> Marks:
    """A step loop fed NumPy batches; losses stay on the device until the end."""
    images, labels = load(plan.synthetic)
    model = network(workload.layers, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(plan.learning_rate), wrt=nnx.Param)
    marks, losses = [], []
    for step, rows in zip(range(1, plan.warmup + plan.steps + 1), batches(len(labels), plan.batch_size), strict=False):
        losses.append(train_step(model, optimizer, images.take(rows, axis=0), labels.take(rows)))
        if step in (plan.warmup, plan.warmup + plan.steps):
            jax.block_until_ready(nnx.state(model))
            marks.append((step, time.monotonic()))
    assert np.isfinite(jax.device_get(losses)).all()
    return marks


@nnx.jit
def train_step(model: Any, optimizer: Any, images: Any, labels: Any) -> jax.Array:
    """One step on the mean cross-entropy; module and optimizer are updated in place."""

    def objective(model: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    loss, grads = nnx.value_and_grad(objective)(model)
    optimizer.update(model, grads)
    return loss


def network(layers: Description, rngs: Any) -> Any:
    """The network; each layer is told the shape of its inputs."""
    built, shape = [], SHAPE
    for name, *options in layers:
        layer = _layer(name, options, shape, rngs)
        shape = jax.eval_shape(layer, jax.ShapeDtypeStruct((1, *shape), np.float32)).shape[1:]
        built.append(layer)
    return nnx.Sequential(*built)


def _layer(name: str, options: list[Any], shape: tuple[int, ...], rngs: Any) -> Any:
    if name == "Conv":
        channels, size, padding = options
        return nnx.Conv(shape[-1], channels, (size, size), padding=padding, rngs=rngs)
    if name == "Dense":
        return nnx.Linear(shape[-1], options[0], rngs=rngs)
    return {
        "MaxPool": lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)),
        "Relu": nnx.relu,
        "Flatten": lambda x: x.reshape(x.shape[0], -1),
    }[name]
