"""Computing in bfloat16 and float16: against casts written by hand, and the loss scale against a simulation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import framework
from framework.api import Model
from framework.errors import ConfigError
from framework.steps.precision import FIRST_SCALE, LARGEST_SCALE, SMALLEST_SCALE, Scaled, in_precision, loss_scaled
from framework.tasks.supervised import supervised
from framework_stax.layers import BatchNorm, Dense
from framework_stax.stack import serial

LOW = ["bfloat16", "float16"]


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


@pytest.fixture
def dense(key):
    model = Dense(3)
    _, params, _ = model.init(key, (-1, 4))
    return model, params, jax.random.normal(jax.random.key(1), (5, 4))


@pytest.mark.parametrize("precision", LOW)
def test_outputs_and_gradients_are_those_of_casts_by_hand(dense, precision):
    model, params, inputs = dense

    def by_hand(params):
        W, b = (leaf.astype(precision) for leaf in params)
        return (jnp.dot(inputs.astype(precision), W) + b).astype(jnp.float32)

    def found(params):
        return in_precision(model, precision).apply(params, (), inputs, train=True)[0]

    np.testing.assert_array_equal(found(params), by_hand(params))
    grads, expected = (jax.grad(lambda p, f=f: (f(p) ** 2).sum())(params) for f in (found, by_hand))
    jax.tree.map(np.testing.assert_array_equal, grads, expected)
    assert dtypes((found(params), grads)) == {"float32"}
    assert not np.array_equal(found(params), model.apply(params, (), inputs)[0])


def test_float32_is_the_model_itself(dense):
    assert in_precision(dense[0], "float32") is dense[0]


def test_state_keeps_its_dtypes_and_integers_are_not_cast():
    def apply(params, state, inputs, *, key=None, train=False):
        assert (inputs["ids"].dtype, inputs["x"].dtype, params.dtype) == (jnp.int32, jnp.bfloat16, jnp.bfloat16)
        return {"y": inputs["x"] * params, "ids": inputs["ids"]}, state.astype(jnp.bfloat16) + 1

    model = in_precision(Model(lambda key, shape: (shape, (), ()), apply), "bfloat16")
    inputs = {"ids": jnp.arange(2), "x": jnp.ones(2)}
    outputs, state = model.apply(jnp.ones([]), jnp.zeros([]), inputs)
    assert (outputs["y"].dtype, outputs["ids"].dtype, state.dtype) == (jnp.float32, jnp.int32, jnp.float32)


TINY = [
    "data=synthetic",
    "data.shape=[6,6,1]",
    "data.examples=64",
    "data.noise=1",
    "data.batch_size=32",
    "data.eval_batch_size=32",
    "model=serial",
    "model.layers=[{Conv: [4, [3, 3]]}, BatchNorm, Relu, MaxPool, {Dropout: 0.1}, Flatten, {Dense: 10}]",
    "train.steps=8",
    "train.log_every=1",
    "train.eval_every=0",
    "callbacks=[checkpoint]",
]


@pytest.fixture
def train(tmp_path):
    def run(*overrides):
        return framework.run([*TINY, f"run.root={tmp_path}", *overrides])

    return run


def test_a_run_in_few_bits_follows_float32_with_state_and_metrics_in_float32(train):
    reference = train()
    for precision in LOW:
        result = train(f"precision={precision}", "train.steps_per_call=5")
        assert result.metrics["eval/loss"] == pytest.approx(reference.metrics["eval/loss"], rel=0.03)
        assert result.metrics["eval/loss"] != reference.metrics["eval/loss"]
        params, model_state = result.state.params, result.state.model_state
        assert dtypes((params, model_state)) == {"float32"}
        assert {d for d in dtypes(result.state.opt_state) if "float" in d} == {"float32"}
        inputs = np.ones((2, 6, 6, 1), np.float32)
        np.testing.assert_array_equal(framework.load(result.directory)(inputs), result.model(inputs))
    assert result.metrics["train/loss_scale"] == FIRST_SCALE
    with pytest.raises(ConfigError, match=r"precision: expected one of .*'bfloat16'.* found 'bf16'"):
        train("precision=bf16")


def test_the_scale_halves_at_an_overflow_and_doubles_after_good_steps():
    """Gradients come scaled, as a step hands them over; an overflow is an infinity or a NaN in any of them."""
    optimizer = loss_scaled(optax.sgd(1.0), good_steps=3)
    params = {"a": jnp.zeros(2), "b": jnp.zeros([])}
    state, scale, good, expected = optimizer.init(params), FIRST_SCALE, 0, np.zeros(2)
    update = jax.jit(optimizer.update)
    for step, overflow in enumerate([0, 0, np.inf, 0, 0, 0, 0, np.nan, np.nan, 0, 0, 0, 0, 0, 0]):
        grads = {"a": jnp.array([step, -1.0]) * scale, "b": jnp.float32(overflow)}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if overflow == 0:
            expected -= [step, -1.0]
            good += 1
            scale, good = (2 * scale, 0) if good == 3 else (scale, good)
        else:
            scale, good = scale / 2, 0
        np.testing.assert_array_equal(params["a"], expected)
        assert (float(state.scale), int(state.good_steps), bool(state.finite)) == (scale, good, overflow == 0)


def test_a_skipped_update_leaves_the_optimizer_as_it_was():
    optimizer = loss_scaled(optax.sgd(0.1, momentum=0.9))
    state = optimizer.init(jnp.ones(2))
    _, after = optimizer.update(jnp.array([1.0, jnp.nan]), state, jnp.ones(2))
    jax.tree.map(np.testing.assert_array_equal, after.inner, state.inner)


@pytest.mark.parametrize(
    ("first", "grad", "last"), [(LARGEST_SCALE, 0.0, LARGEST_SCALE), (SMALLEST_SCALE, np.inf, SMALLEST_SCALE)]
)
def test_the_scale_stays_within_bounds(first, grad, last):
    optimizer = loss_scaled(optax.sgd(1.0), good_steps=1)
    state = optimizer.init(jnp.ones([]))._replace(scale=jnp.float32(first))
    assert float(optimizer.update(jnp.float32(grad), state, jnp.ones([]))[1].scale) == last


def one_step(precision, optimizer, factor, scale, key):
    """One update of a model whose loss has gradients of about `factor`, and the state before and after."""
    model = in_precision(serial(BatchNorm(), Dense(1)), precision)
    task = supervised(model, lambda outputs, batch: outputs[:, 0] * factor, optimizer, {})
    batch = {"inputs": jax.random.normal(jax.random.key(1), (4, 3))}
    before = task.init(key, batch)
    if isinstance(before.opt_state, Scaled):
        before = before._replace(opt_state=before.opt_state._replace(scale=jnp.float32(scale)))
    after, means = jax.jit(task.train_step)(before, batch)
    return before, after, means


def test_the_scale_saves_gradients_that_are_too_small_for_float16(key):
    factor = 2.0**-27  # under the smallest float16, 2 ** -24
    moved = {}
    for name, precision, optimizer in (
        ("reference", "float32", optax.sgd(2.0**27)),
        ("unscaled", "float16", optax.sgd(2.0**27)),
        ("scaled", "float16", loss_scaled(optax.sgd(2.0**27))),
    ):
        before, after, _ = one_step(precision, optimizer, factor, 2.0**16, key)
        moved[name] = jax.tree.leaves(jax.tree.map(lambda new, old: new - old, after.params, before.params))
    assert not any(np.any(leaf) for leaf in moved["unscaled"])
    for found, wanted in zip(moved["scaled"], moved["reference"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


def test_a_step_that_overflows_changes_neither_parameters_nor_averages(key):
    before, after, means = one_step("float16", loss_scaled(optax.sgd(1.0)), 2.0**12, 2.0**8, key)
    assert isinstance(after.opt_state, Scaled)
    assert not after.opt_state.finite
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.model_state), (before.params, before.model_state))
    assert int(after.step) == 1
    assert np.isfinite(means["loss"].total)
    assert float(means["loss_scale"].total) == 2.0**7


BY_HAND = """
import optax
from framework.api import Loss, Model, Task
from framework.tasks.supervised import supervised

def by_hand(model: Model, loss: Loss, optimizer: optax.GradientTransformation) -> Task:
    return supervised(model, loss, optimizer, {})._replace(is_scaled=False)
"""


def test_a_task_that_does_not_scale_its_losses_is_refused_in_float16(install, tmp_path):
    install("acme", {"framework.tasks": {"by_hand": "acme_by_hand:by_hand"}}, {"acme_by_hand.py": BY_HAND})
    words = ["task=by_hand", "data=synthetic", "model.hidden=[4]", "train.steps=1", f"run.root={tmp_path}/runs"]
    with pytest.raises(ConfigError, match=r"task 'by_hand' does not scale its losses.*take bfloat16") as caught:
        framework.run([*words, "precision=float16"])
    assert caught.value.key == "precision"
    assert np.isfinite(framework.run([*words, "precision=bfloat16"]).metrics["train/loss"])
