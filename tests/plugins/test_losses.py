"""Losses, held against closed forms in NumPy and against optax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from framework.errors import ConfigError
from framework.steps.metrics import weighted
from framework_losses.losses import (
    absolute_error,
    binary_cross_entropy,
    huber,
    softmax_cross_entropy,
    squared_error,
)

RANDOM = np.random.default_rng(0)
LOGITS = (3 * RANDOM.normal(size=(6, 4))).astype(np.float32)
LABELS = np.array([0, 3, 1, 2, 2, 0])
SHARES = RANDOM.dirichlet(np.ones(4), size=6).astype(np.float32)
SEQUENCE = RANDOM.normal(size=(6, 5, 4)).astype(np.float32)
TOKENS = RANDOM.integers(0, 4, size=(6, 5))
BITS = np.array([0, 1, 1, 0, 1, 0])
SCORES = (4 * RANDOM.normal(size=6)).astype(np.float32)
FIELD = RANDOM.normal(size=(6, 2, 3)).astype(np.float32)


def batch_of(targets):
    return {"inputs": jnp.zeros(len(targets)), "targets": jnp.asarray(targets)}


def log_softmax(x):
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def softmax_reference(logits, shares, smoothing):
    classes = logits.shape[-1]
    shares = (1 - smoothing) * shares + smoothing / classes
    values = -(shares * log_softmax(logits)).sum(axis=-1)
    return values.reshape(len(values), -1).mean(axis=1)


@pytest.mark.parametrize(("from_log_probabilities", "smoothing"), [(False, 0.0), (False, 0.1), (True, 0.1)])
@pytest.mark.parametrize(
    ("outputs", "targets", "shares"),
    [
        (LOGITS, LABELS, np.eye(4)[LABELS]),
        (LOGITS, LABELS.astype(np.uint8), np.eye(4)[LABELS]),
        (LOGITS, np.eye(4, dtype=np.float32)[LABELS], np.eye(4)[LABELS]),
        (LOGITS, np.eye(4, dtype=np.int32)[LABELS], np.eye(4)[LABELS]),
        (LOGITS, SHARES, SHARES),
        (SEQUENCE, TOKENS, np.eye(4)[TOKENS]),
        (SEQUENCE, np.eye(4, dtype=np.float32)[TOKENS], np.eye(4)[TOKENS]),
    ],
    ids=["numbers", "uint8", "one-hot", "one-hot integers", "shares", "sequence", "sequence one-hot"],
)
def test_softmax_cross_entropy(outputs, targets, shares, from_log_probabilities, smoothing):
    given = log_softmax(outputs).astype(np.float32) if from_log_probabilities else outputs
    loss = softmax_cross_entropy(smoothing=smoothing, from_log_probabilities=from_log_probabilities)
    found = jax.jit(loss)(jnp.asarray(given), batch_of(targets))
    np.testing.assert_allclose(found, softmax_reference(outputs, shares, smoothing), rtol=1e-5)


def test_softmax_cross_entropy_equals_optax():
    wanted = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(softmax_cross_entropy()(jnp.asarray(LOGITS), batch_of(LABELS)), wanted, rtol=1e-6)


def test_classes_without_share_may_be_impossible():
    outputs = jnp.array([[0.0, -jnp.inf]])
    loss = softmax_cross_entropy(from_log_probabilities=True)
    assert float(loss(outputs, batch_of(np.array([[1.0, 0.0]])))[0]) == 0.0
    assert float(loss(outputs, batch_of(np.array([0])))[0]) == 0.0


@pytest.mark.parametrize("label", [-1, 4])
def test_class_numbers_out_of_range_are_not_a_number(label):
    values = softmax_cross_entropy()(jnp.asarray(LOGITS), batch_of(np.array([label, *LABELS[1:]])))
    assert np.isnan(values[0]) and np.all(np.isfinite(values[1:]))


REGRESSIONS = {
    "squared": (squared_error(), lambda o, t: (o - t) ** 2),
    "absolute": (absolute_error(), lambda o, t: np.abs(o - t)),
    "huber": (huber(0.5), lambda o, t: np.where(np.abs(o - t) <= 0.5, (o - t) ** 2 / 2, 0.5 * (np.abs(o - t) - 0.25))),
    "binary": (binary_cross_entropy(), lambda o, t: np.log1p(np.exp(-np.abs(o))) + np.maximum(o, 0) - o * t),
}


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (SCORES, BITS),
        (SCORES, BITS.astype(np.float32)),
        (SCORES, BITS.astype(bool)),
        (SCORES[:, None], BITS),
        (SCORES, BITS[:, None]),
        (SCORES[:, None], BITS[:, None]),
        (FIELD, (FIELD > 0.3).astype(np.uint8)),
    ],
    ids=["[B]", "floats", "booleans", "[B,1]-[B]", "[B]-[B,1]", "[B,1]", "[B,2,3]"],
)
def test_values_of_one_shape(name, outputs, targets):
    loss, reference = REGRESSIONS[name]
    wanted = reference(outputs.reshape(6, -1).astype(np.float64), targets.reshape(6, -1).astype(np.float64)).mean(
        axis=1
    )
    np.testing.assert_allclose(jax.jit(loss)(jnp.asarray(outputs), batch_of(targets)), wanted, rtol=1e-5, atol=1e-7)


def test_they_equal_optax():
    outputs, targets = jnp.asarray(SCORES), jnp.asarray(BITS, jnp.float32)
    batch = batch_of(targets)
    np.testing.assert_allclose(huber(0.5)(outputs, batch), optax.huber_loss(outputs, targets, delta=0.5), rtol=1e-6)
    np.testing.assert_allclose(squared_error()(outputs, batch), optax.squared_error(outputs, targets), rtol=1e-6)
    wanted = optax.sigmoid_binary_cross_entropy(outputs, targets)
    np.testing.assert_allclose(binary_cross_entropy()(outputs, batch), wanted, rtol=1e-6)


@pytest.mark.parametrize(("logit", "target", "value"), [(80, 1, np.exp(-80.0)), (-80, 0, np.exp(-80.0)), (-80, 1, 80)])
def test_binary_cross_entropy_is_stable(logit, target, value):
    loss = lambda x: binary_cross_entropy()(x, batch_of(np.array([target])))[0]  # noqa: E731
    found, slope = jax.value_and_grad(loss)(jnp.array([float(logit)]))
    np.testing.assert_allclose(found, value, rtol=1e-5)
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (softmax_cross_entropy(smoothing=0.1), LOGITS, LABELS),
        (softmax_cross_entropy(), LOGITS, SHARES),
        (binary_cross_entropy(), SCORES, BITS),
        (huber(), SCORES, BITS),
    ],
    ids=["numbers", "shares", "binary", "huber"],
)
def test_gradients(loss, outputs, targets):
    check_grads(
        jax.jit(lambda x: loss(x, batch_of(targets))),
        (jnp.asarray(outputs),),
        order=1,
        modes=["rev"],
        eps=1e-2,
        rtol=1e-2,
    )


LOSSES = {**{name: loss for name, (loss, _) in REGRESSIONS.items()}, "softmax": softmax_cross_entropy()}


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_splitting_do_not_change_the_mean(name):
    outputs, targets = (LOGITS, LABELS) if name == "softmax" else (SCORES, BITS)
    values = LOSSES[name](jnp.asarray(outputs), batch_of(targets))
    whole = weighted(values, None)
    nan = np.full_like(outputs[:2], np.nan)
    padded = LOSSES[name](jnp.asarray(np.concatenate([outputs[4:], nan])), batch_of(np.append(targets[4:], [0, 0])))
    parts = jax.tree.map(jnp.add, weighted(values[:4], jnp.ones(4)), weighted(padded, jnp.array([1.0, 1.0, 0.0, 0.0])))
    np.testing.assert_allclose(parts.total / parts.count, whole.total / whole.count, rtol=1e-6)
    assert float(parts.count) == 6


@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_outputs_give_single_precision(name):
    outputs, targets = (LOGITS, LABELS) if name == "softmax" else (SCORES, BITS)
    values = LOSSES[name](jnp.asarray(outputs, jnp.bfloat16), batch_of(targets))
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, LOSSES[name](jnp.asarray(outputs), batch_of(targets)), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "words"),
    [
        (squared_error(), (6, 3), (6,), ["[6, 3]", "[6]"]),
        (squared_error(), (6, 1), (1, 6), ["[6, 1]", "[1, 6]"]),
        (binary_cross_entropy(), (6, 2), (6,), ["[6, 2]", "[6]"]),
        (softmax_cross_entropy(), (6, 4), (5,), ["[6, 4]", "[5]", "class numbers [6]"]),
        (softmax_cross_entropy(), (6, 4), (6, 3), ["[6, 3]", "distributions [6, 4]"]),
        (softmax_cross_entropy(), (6, 4), (6, 1), ["[6, 1]"]),
        (softmax_cross_entropy(), (6, 1), (6,), ["K ≥ 2", "[6, 1]"]),
        (softmax_cross_entropy(), (6,), (6,), ["K ≥ 2", "[6]"]),
    ],
)
def test_shapes_that_do_not_match_are_refused(loss, outputs, targets, words):
    with pytest.raises(ConfigError) as caught:
        loss(jnp.zeros(outputs), {"targets": jnp.zeros(targets, jnp.int32)})
    assert all(word in str(caught.value) for word in words)


def test_fractions_are_no_class_numbers():
    with pytest.raises(ConfigError, match="float32"):
        softmax_cross_entropy()(jnp.zeros((6, 4)), {"targets": jnp.zeros(6)})


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (softmax_cross_entropy, {"smoothing": 1.0}),
        (softmax_cross_entropy, {"smoothing": -0.1}),
        (huber, {"delta": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(factory, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        factory(**options)
