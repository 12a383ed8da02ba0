"""A batch in parts: the sums are those of the whole batch, on one device and on several, in chunks and one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.example_libraries import stax

import framework
from framework import testing
from framework.api import Model
from framework.errors import ConfigError
from framework.tasks.supervised import supervised
from framework_losses.losses import softmax_cross_entropy
from framework_losses.metrics import accuracy, confusion
from framework_stax.layers import BatchNorm, Dense
from framework_stax.stack import serial
from framework_strategies.jit import jit
from framework_strategies.pmap import pmap

B, FEATURES, CLASSES = 24, 5, 3


def task_of(model, accumulate, transforms=()):
    metrics = {"accuracy": framework.api.as_metric(accuracy()), "confusion": confusion(CLASSES)}
    return supervised(model, softmax_cross_entropy(), optax.adam(0.1), metrics, transforms, accumulate)


def batch_of(weighted, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "inputs": rng.normal(size=(B, FEATURES)).astype(np.float32),
        "targets": rng.integers(0, CLASSES, B).astype(np.int32),
    }
    return batch | ({"weights": rng.integers(0, 3, B).astype(np.float32)} if weighted else {})


def run(task, batch, strategy, steps=3):
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    with jax.numpy_dtype_promotion("standard"):  # optax's own code leans on it
        state = strategy.init(lambda key: task.init(key, spec), jax.random.key(0))
        step = strategy.train(task.train_step, 0)
        for _ in range(steps):
            state, means = step(state, strategy.feed(batch, 0))
    return jax.device_get((state.params, state.model_state, means))


def assert_close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, wanted)


@pytest.mark.parametrize(("strategy", "parts"), [(jit(), 2), (jit(), 24), (pmap(), 4)], ids=["jit", "one", "pmap"])
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_sum_to_the_whole_batch(parts, weighted, strategy):
    model, batch = serial(Dense(8), stax.Tanh, Dense(CLASSES)), batch_of(weighted)
    assert_close(run(task_of(model, parts), batch, strategy), run(task_of(model, 1), batch, jit()))


def test_all_metrics_count_every_example_once():
    means = run(task_of(serial(Dense(CLASSES)), 4), batch_of(weighted=False), jit(), steps=1)[2]
    assert float(means["loss"].count) == B
    assert means["confusion"].total.sum() == B


def recorder():
    """A model whose state counts its calls and keeps the inputs' sum, the latest weighing most."""

    def init(key, in_shape):
        return (-1, CLASSES), jnp.zeros((FEATURES, CLASSES)), (jnp.zeros([], jnp.int32), jnp.zeros([]))

    def apply(params, state, inputs, *, key=None, train=False):
        return inputs @ params, (state[0] + 1, state[1] / 2 + inputs.sum())

    return Model(init, apply)


def test_state_goes_from_part_to_part():
    batch, parts = batch_of(weighted=False), 4
    _, (calls, kept), _ = run(task_of(recorder(), parts), batch, jit(), steps=1)
    expected = 0.0
    for part in range(parts):
        expected = expected / 2 + batch["inputs"][part::parts].sum()
    assert calls == parts
    np.testing.assert_allclose(kept, expected, rtol=1e-4)


def test_batch_norm_follows_each_part():
    batch, parts, momentum = batch_of(weighted=False), 3, 0.9
    _, state, _ = run(task_of(serial(BatchNorm(momentum=momentum), Dense(CLASSES)), parts), batch, jit(), steps=1)
    means = [batch["inputs"][part::parts].mean(axis=0) for part in range(parts)]
    mean = np.average(means, axis=0, weights=momentum ** np.arange(parts)[::-1])
    np.testing.assert_allclose(state[0].mean, mean, rtol=1e-4, atol=1e-6)


def test_each_part_draws_noise_of_its_own():
    seen = []

    def spy(key, batch):
        jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data).ravel())), jax.random.key_data(key))

    def init(key, in_shape):
        return (-1, CLASSES), jnp.zeros((FEATURES, CLASSES)), ()

    def apply(params, state, inputs, *, key=None, train=False):
        spy(key, inputs)
        return inputs @ params, state

    run(task_of(Model(init, apply), 4), batch_of(weighted=False), jit(), steps=2)
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 8


def test_transforms_see_the_whole_batch_so_that_parts_change_no_augmentation():
    def noisy(keys, batch):
        return {**batch, "inputs": batch["inputs"] + jax.random.normal(keys[0], batch["inputs"].shape)}

    model, batch = serial(Dense(CLASSES)), batch_of(weighted=True)
    assert_close(run(task_of(model, 4, [noisy]), batch, jit()), run(task_of(model, 1, [noisy]), batch, jit()))


TINY = [*testing.TINY, "train.steps=4", "train.log_every=1", "train.eval_every=0", "callbacks=[]"]


def test_a_run_in_parts_has_the_losses_of_the_run_without_in_chunks_and_single_steps(tmp_path):
    chosen = [*TINY, f"run.root={tmp_path}"]
    reference = framework.run([*chosen, "train.steps_per_call=1"])
    for strategy, steps_per_call in (("jit", 1), ("jit", 3), ("pmap", 3)):
        parts = ["train.accumulate=4", f"train.steps_per_call={steps_per_call}", f"strategy={strategy}"]
        result = framework.run([*chosen, *parts])
        for tag in ("train/loss", "train/accuracy", "eval/loss"):
            np.testing.assert_allclose(result.metrics[tag], reference.metrics[tag], rtol=1e-5, err_msg=tag)
        assert_close(result.state.params, reference.state.params)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["train.accumulate=3"],
            "train.accumulate: 3 does not divide the 16 examples a device has of a batch; take one of 1, 2, 4, 8, 16",
        ),
        (["train.accumulate=16", "strategy=pmap"], "16 does not divide the 8 examples"),
        (["train.accumulate=0"], "train.accumulate: expected at least 1, found 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(tmp_path, overrides, text):
    with pytest.raises(ConfigError) as caught:
        framework.run([*TINY, f"run.root={tmp_path}", *overrides])
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
