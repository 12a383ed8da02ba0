"""Training written without a framework: a compiled step in a Python loop, and a whole epoch compiled as one loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.example_libraries import stax

from benchmarks.images import load
from benchmarks.workloads import GPT, SHAPE, Description, Marks, Plan, Workload

Pair = tuple[Callable[..., Any], Callable[..., Any]]
"""`init(key, in_shape) -> (out_shape, params)` and `apply(params, inputs) -> logits`, as in stax."""

STAX: dict[str, Callable[..., Any]] = {
    "Conv": lambda channels, size, padding: stax.Conv(channels, (size, size), padding=padding),
    "MaxPool": lambda: stax.MaxPool((2, 2), strides=(2, 2)),
    "Relu": lambda: stax.Relu,
    "Flatten": lambda: stax.Flatten,
    "Dense": stax.Dense,
}


def stax_network(layers: Description) -> Pair:
    """The network in stock stax layers."""
    return stax.serial(*(STAX[name](*options) for name, *options in layers))


def framework_network(workload: Workload) -> Pair:
    """The very model that the framework trains, for a loop by hand."""
    from framework.config.compose import compose
    from framework.registry.builder import Builder
    from framework.registry.entry_points import discover

    shape = (-1, GPT.block) if workload.is_text else (-1, *SHAPE)
    config = compose([*workload.model, "train.steps=1"])
    model = Builder(discover()).named("models", config.values["model"], "model")
    _, _, state = jax.eval_shape(lambda key: model.init(key, shape)[:3], jax.random.key(0))
    assert not jax.tree.leaves(state), "a network with state needs a loop that carries it"

    def init(key: jax.Array, in_shape: tuple[int, ...]) -> tuple[Any, Any]:
        return model.init(key, in_shape)[:2]

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        return model.apply(params, state, inputs, train=True)[0]

    return init, apply


def step_loop(network: Pair, plan: Plan) -> Marks:
    """A jitted step with donated state, fed NumPy batches; losses stay on the device until the end."""
    images, labels = load(plan.synthetic)
    init, apply = network
    optimizer = optax.adam(plan.learning_rate)
    train_step = jax.jit(partial(update, apply, optimizer), donate_argnums=0)
    _, params = init(jax.random.key(0), (-1, *SHAPE))
    state = params, optimizer.init(params)
    marks, losses = [], []
    for step, rows in zip(range(1, plan.warmup + plan.steps + 1), batches(len(labels), plan.batch_size), strict=False):
        state, loss = train_step(state, (images.take(rows, axis=0), labels.take(rows)))
        losses.append(loss)
        if step in (plan.warmup, plan.warmup + plan.steps):
            jax.block_until_ready(state)
            marks.append((step, time.monotonic()))
    assert np.isfinite(jax.device_get(losses)).all()
    return marks


def epoch_scan(network: Pair, plan: Plan) -> Marks:
    """All steps of an epoch in one compiled loop; the data are on the device and gathered there."""
    init, apply = network
    optimizer = optax.adam(plan.learning_rate)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, images: jax.Array, labels: jax.Array, order: jax.Array) -> tuple[Any, jax.Array]:
        def body(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            return update(apply, optimizer, state, (images[rows], labels[rows]))

        return jax.lax.scan(body, state, order)

    images, labels = jax.device_put(load(plan.synthetic))
    _, params = init(jax.random.key(0), (-1, *SHAPE))
    state = params, optimizer.init(params)
    orders, marks, done = batches(len(labels), plan.batch_size), [], 0
    while done < plan.epoch + plan.steps:
        state, losses = epoch(state, images, labels, np.stack(list(itertools.islice(orders, plan.epoch))))
        done += plan.epoch
        assert np.isfinite(losses).all()
        marks.append((done, time.monotonic()))
    return marks


def update(apply: Callable[..., Any], optimizer: Any, state: Any, batch: Any) -> tuple[Any, jax.Array]:
    """One step on the mean cross-entropy."""
    params, opt_state = state
    inputs, labels = batch

    def objective(params: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, inputs), labels).mean()

    loss, grads = jax.value_and_grad(objective)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Rows of batch after batch, reshuffled every epoch; what does not fill a batch is dropped."""
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(count).astype(np.int32)
        yield from order[: count // size * size].reshape(-1, size)
