"""The moving average of parameters: against its definition, and that it is what one evaluates, loads and is given."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import optax
import pytest

import framework
from framework import testing
from framework.checkpoints import checkpoint
from framework.errors import ConfigError
from framework.tasks.ema import averaged, trained_params
from framework.tasks.supervised import supervised
from framework_losses.losses import squared_error
from framework_stax.layers import Dense
from framework_stax.stack import serial


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_is_the_weighted_mean_of_all_that_was_reached(decay, key):
    task = averaged(supervised(serial(Dense(2)), squared_error(), optax.sgd(0.3), {}), decay)
    batch = {"inputs": jax.random.normal(key, (4, 3)), "targets": jax.random.normal(key, (4, 2))}
    state = task.init(key, batch)
    jax.tree.map(np.testing.assert_array_equal, trained_params(state), state.params)
    reached, step = [], jax.jit(task.train_step, donate_argnums=0)
    for count in range(1, 6):
        state, _ = step(state, batch)
        reached.append(jax.device_get(state.params))
        weights = np.array([decay ** (count - n) for n in range(1, count + 1)])
        expected = jax.tree.map(partial(weighted_mean, weights), *reached)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), trained_params(state), expected)


def weighted_mean(weights, *leaves):
    return np.average(leaves, axis=0, weights=weights)


def test_the_inner_task_trains_as_it_does_alone_and_is_evaluated_with_the_average(key):
    plain = supervised(serial(Dense(2)), squared_error(), optax.adam(0.1), {})
    task = averaged(plain, 0.9)
    batch = {"inputs": jax.random.normal(key, (4, 3)), "targets": jax.random.normal(key, (4, 2))}
    state, reference = task.init(key, batch), plain.init(key, batch)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            state, reference = task.train_step(state, batch)[0], plain.train_step(reference, batch)[0]
        found = task.eval_step(state, batch)["loss"].total
        expected = plain.eval_step(reference._replace(params=trained_params(state)), batch)["loss"].total
    jax.tree.map(
        np.testing.assert_array_equal, (state.params, state.opt_state.inner), (reference.params, reference.opt_state)
    )
    np.testing.assert_array_equal(found, expected)
    assert found != plain.eval_step(reference, batch)["loss"].total


TINY = [*testing.TINY, "train.steps=6", "train.log_every=1", "train.eval_every=0", "callbacks=[checkpoint]"]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_is_evaluated_with_saved_with_and_loaded_as_the_average(tmp_path, precision):
    chosen = [*TINY, f"run.root={tmp_path}", f"precision={precision}"]
    reference = framework.run(chosen)
    result = framework.run([*chosen, "ema=0.9", "strategy=pmap", "train.steps_per_call=4"])
    for tag in ("train/loss", "train/accuracy"):
        np.testing.assert_allclose(result.metrics[tag], reference.metrics[tag], rtol=1e-4, err_msg=tag)
    assert abs(result.metrics["eval/loss"] - reference.metrics["eval/loss"]) > 1e-3
    average, loaded = trained_params(result.state), framework.load(result.directory)
    for params in (loaded.params, result.model.params):
        jax.tree.map(np.testing.assert_array_equal, params, average)
    saved = checkpoint.restore(result.directory / "checkpoints" / "6", jax.eval_shape(lambda: result.state))
    jax.tree.map(np.testing.assert_array_equal, saved.params, result.state.params)


EVERYTHING = ["ema=0.9", "precision=float16", "train.accumulate=2"]


def test_a_sharded_run_with_everything_follows_one_device(tmp_path):
    chosen = [*TINY, *EVERYTHING, f"run.root={tmp_path}"]
    reference, result = framework.run(chosen), framework.run([*chosen, "strategy=sharded", "strategy.fsdp=2"])
    for tag in ("train/loss", "eval/loss", "train/loss_scale"):
        np.testing.assert_allclose(result.metrics[tag], reference.metrics[tag], rtol=2e-3, err_msg=tag)


def test_a_resumed_run_with_everything_is_the_whole_run_bit_for_bit(tmp_path):
    chosen = [*TINY, *EVERYTHING, "train.steps_per_call=2"]
    whole = framework.run([*chosen, f"run.dir={tmp_path}/whole"])
    framework.run([*chosen, "train.steps=3", f"run.dir={tmp_path}/cut"])
    resumed = framework.resume(tmp_path / "cut", ["train.steps=6"])
    assert int(resumed.state.step) == int(whole.state.step) == 6
    for left, right in zip(jax.tree.leaves(resumed.state[:4]), jax.tree.leaves(whole.state[:4]), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("decay", ["0", "1", "1.5"])
def test_a_decay_that_is_none_is_refused_in_one_line(tmp_path, decay):
    with pytest.raises(ConfigError, match=r"^ema: expected a decay between 0 and 1, such as 0.999, or null, found"):
        framework.run([*TINY, f"run.root={tmp_path}", f"ema={decay}"])
