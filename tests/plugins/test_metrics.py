"""Metrics, held against counting by hand in NumPy."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from framework.api import as_metric
from framework.errors import ConfigError
from framework.steps.metrics import Sums, collected, weighted
from framework_losses.metrics import (
    accuracy,
    auc,
    balanced_accuracy,
    confusion,
    f1,
    perplexity,
    subset_accuracy,
    top_k_accuracy,
)
from framework_losses.regression import mae, mse, r2, rmse

RANDOM = np.random.default_rng(1)
SCORES = RANDOM.normal(size=(40, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 5, size=40)
LOGITS = (5 * RANDOM.normal(size=40)).astype(np.float32)
BITS = (LOGITS + 4 * RANDOM.normal(size=40) > 0).astype(np.int32)
WEIGHTS = RANDOM.integers(0, 3, size=40).astype(np.float32)


def measure(built, outputs, targets, weights=None):
    """As the core does: weighted sums of two halves, merged, and the result on the host."""
    metric, sums = as_metric(built), Sums()
    weights = np.ones(len(outputs), np.float32) if weights is None else weights
    for part in (slice(None, 13), slice(13, None)):
        batch = {"targets": jnp.asarray(targets[part]), "weights": jnp.asarray(weights[part])}
        if len(batch["targets"]):
            values = jax.jit(metric.values)(jnp.asarray(outputs[part]), batch)
            assert len(jax.tree.leaves(values)[0]) == len(batch["targets"])
            sums.add({"it": (collected if metric.collect else weighted)(values, batch["weights"])})
    total, count = sums.means()["it"]
    return metric.result(np.asarray(total, np.float64), np.float64(count))


@pytest.mark.parametrize(("k", "weights"), [(1, None), (2, None), (5, None), (1, WEIGHTS), (2, WEIGHTS)])
def test_top_k_accuracy(k, weights):
    order = np.argsort(-SCORES, axis=1, kind="stable")[:, :k]
    wanted = np.average([label in row for label, row in zip(LABELS, order, strict=True)], weights=weights)
    assert measure(top_k_accuracy(k), SCORES, LABELS, weights) == pytest.approx(wanted)
    if k == 1:
        assert measure(accuracy(), SCORES, LABELS, weights) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kind", "outputs", "targets", "wanted"),
    [
        ("classes", [[1.0, 3.0], [2.0, 0.0]], [1, 1], 0.5),
        ("classes", [[1.0, 3.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], 0.5),
        ("classes", [[1.0, 1.0], [1.0, 1.0]], [0, 1], 0.5),
        ("classes", [[[1.0, 3.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], [[1, 1], [1, 1]], 0.75),
        ("binary", [2.0, -1.0], [1, 1], 0.5),
        ("binary", [[2.0], [-1.0]], [1, 0], 1.0),
        ("binary", [[2.0], [-1.0]], [[0], [0]], 0.5),
        ("binary", [[2.0, -1.0], [-1.0, 3.0]], [[1.0, 0.0], [0.0, 0.0]], 0.75),
    ],
    ids=["numbers", "one-hot", "ties", "sequence", "logits [B]", "logits [B,1]-[B]", "logits [B,1]", "labels [B,2]"],
)
def test_accuracy_takes_the_targets_of_the_losses(kind, outputs, targets, wanted):
    assert measure(accuracy(kind), np.array(outputs, np.float32), np.array(targets)) == pytest.approx(wanted)


@pytest.mark.parametrize("from_log_probabilities", [False, True])
def test_perplexity_is_the_exponential_of_the_mean(from_log_probabilities):
    log_probabilities = SCORES - np.log(np.exp(SCORES).sum(axis=1, keepdims=True))
    mean = np.average(-log_probabilities[np.arange(40), LABELS], weights=WEIGHTS)
    outputs = log_probabilities if from_log_probabilities else SCORES
    found = measure(perplexity(from_log_probabilities), outputs, LABELS, WEIGHTS)
    assert found == pytest.approx(np.exp(mean), rel=1e-5)


def test_perplexity_of_no_knowledge_is_the_number_of_classes():
    assert measure(perplexity(), np.zeros((40, 5), np.float32), LABELS) == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize(("mean", "wanted"), [(1e4, math.inf), (math.inf, math.inf), (math.nan, math.nan)])
def test_perplexity_beyond_the_floats(mean, wanted):
    assert perplexity().result(np.float64(mean), 1.0) == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_confusion(weights):
    predicted, each = SCORES.argmax(axis=1), np.ones(40) if weights is None else weights
    right = predicted == LABELS
    recalls = [
        np.average(right[of], weights=each[of]) for of in (np.flatnonzero(np.equal(LABELS, k)) for k in range(5))
    ]
    found = measure(confusion(), SCORES, LABELS, weights)
    wanted = {"balanced_accuracy": np.mean(recalls)} | {f"recall_{k}": recall for k, recall in enumerate(recalls)}
    assert found == pytest.approx(wanted)
    assert measure(confusion(per_class=False), SCORES, LABELS, weights).keys() == {"balanced_accuracy"}


def test_confusion_leaves_out_classes_that_do_not_occur():
    found = measure(confusion(), np.eye(3, dtype=np.float32)[[0, 0, 2, 2]], np.array([0, 0, 2, 0]))
    assert found == pytest.approx({"balanced_accuracy": (2 / 3 + 1) / 2, "recall_0": 2 / 3, "recall_2": 1.0})


def test_confusion_of_a_sequence_counts_each_example_once():
    values = confusion().values(jnp.asarray(SCORES.reshape(8, 5, 5)), {"targets": jnp.asarray(LABELS.reshape(8, 5))})
    np.testing.assert_allclose(values.sum(axis=(1, 2)), np.ones(8), rtol=1e-6)


def pairwise_auc(scores, targets, weights):
    """The definition: over all pairs of a positive and a negative, ties half."""
    up, down = targets == 1, targets == 0
    wins = (scores[up, None] > scores[None, down]) + 0.5 * (scores[up, None] == scores[None, down])
    return np.average(wins, weights=weights[up, None] * weights[None, down])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("move", [lambda x: x, lambda x: 2300 * x - 20_500, lambda x: 0.5 + 0.0003 * x])
@pytest.mark.parametrize("layout", ["[B]", "[B,1]", "[B,2]"])
def test_auc_is_exact_on_any_scale(layout, move, weights):
    scores = move(LOGITS).astype(np.float32)
    outputs = {"[B]": scores, "[B,1]": scores[:, None], "[B,2]": np.stack([np.zeros_like(scores), scores], axis=1)}
    found = measure(auc("classes" if layout == "[B,2]" else "binary"), outputs[layout], BITS, weights)
    each = np.ones(40) if weights is None else weights
    assert found == pytest.approx(pairwise_auc(scores, BITS, each), rel=1e-9)
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(BITS, scores, sample_weight=each), rel=1e-9)


@pytest.mark.parametrize(
    ("logits", "targets", "wanted"),
    [
        ([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1], 1.0),
        ([-2.0, -1.0, 1.0, 2.0], [1, 1, 0, 0], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([40.0, 90.0, 30.0, 900.0], [0, 1, 0, 1], 1.0),
        ([np.inf, -np.inf], [1, 0], 1.0),
        ([np.nan, 1.0], [1, 0], np.nan),
        ([1.0, 2.0], [1, 1], np.nan),
    ],
    ids=["perfect", "inverted", "ties", "beyond a sigmoid", "infinite", "not a number", "one class"],
)
def test_auc_at_its_limits(logits, targets, wanted):
    found = measure(auc("binary"), np.array(logits, np.float32), np.array(targets))
    assert found == pytest.approx(wanted, nan_ok=True)


YES = (RANDOM.normal(size=(40, 3)) > 0).astype(np.int32)
SAID = (YES + RANDOM.normal(size=(40, 3)) - 0.5).astype(np.float32)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize(
    ("built", "outputs", "targets", "reference"),
    [
        (balanced_accuracy(), SCORES, LABELS, sklearn.metrics.balanced_accuracy_score),
        (f1(), SCORES, LABELS, partial(sklearn.metrics.f1_score, average="macro")),
        (f1("micro"), SCORES, LABELS, partial(sklearn.metrics.f1_score, average="micro")),
        (f1(targets="binary"), LOGITS, BITS, sklearn.metrics.f1_score),
        (f1(targets="binary"), SAID, YES, partial(sklearn.metrics.f1_score, average="macro")),
        (f1("micro", targets="binary"), SAID, YES, partial(sklearn.metrics.f1_score, average="micro")),
        (subset_accuracy(), SAID, YES, sklearn.metrics.accuracy_score),
        (accuracy(), SCORES, LABELS, sklearn.metrics.accuracy_score),
        (accuracy("binary"), LOGITS, BITS, sklearn.metrics.accuracy_score),
    ],
    ids=["balanced", "f1 macro", "f1 micro", "f1 one", "f1 labels", "f1 labels micro", "subset", "accuracy", "binary"],
)
def test_as_scikit_learn_has_it(built, outputs, targets, reference, weights):
    predicted = outputs.argmax(axis=1) if outputs.shape == (40, 5) else (outputs > 0).astype(np.int32)
    wanted = reference(targets, predicted, sample_weight=weights)
    assert measure(built, outputs, targets, weights) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("offset", [0.0, 50.0, 3e4])
@pytest.mark.parametrize(
    ("built", "reference"),
    [
        (mse(), sklearn.metrics.mean_squared_error),
        (mae(), sklearn.metrics.mean_absolute_error),
        (r2(), sklearn.metrics.r2_score),
        (rmse(), lambda *args, **options: np.sqrt(sklearn.metrics.mean_squared_error(*args, **options))),
    ],
    ids=["mse", "mae", "r2", "rmse"],
)
def test_regressions_as_scikit_learn_has_it(built, reference, offset, weights):
    targets = (YES + RANDOM.normal(size=(40, 3)) + offset).astype(np.float32)
    outputs = (targets + 0.5 * RANDOM.normal(size=(40, 3))).astype(np.float32)
    wanted = reference(targets.astype(np.float64), outputs.astype(np.float64), sample_weight=weights)
    assert measure(built, outputs, targets, weights) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("label", [-1, 5, 2**31 - 1])
@pytest.mark.parametrize("built", [accuracy(), top_k_accuracy(2), perplexity(), balanced_accuracy(), f1()])
def test_a_class_out_of_range_is_never_dropped(built, label):
    assert math.isnan(measure(built, SCORES, np.append(LABELS[:-1], label)))


@pytest.mark.parametrize("label", [-1, 2])
def test_auc_never_drops_a_class_out_of_range(label):
    assert math.isnan(measure(auc(), np.stack([-LOGITS, LOGITS], axis=1), np.append(BITS[:-1], label)))


OUTPUTS = RANDOM.normal(size=(8, 5, 5)).astype(np.float32)
NUMBERS = RANDOM.integers(0, 5, size=(8, 5))
KEPT = RANDOM.integers(0, 3, size=(8, 5)).astype(np.float32)
BUILD = [accuracy, balanced_accuracy, f1, perplexity, partial(top_k_accuracy, 2), partial(confusion, True)]


@pytest.mark.parametrize("build", BUILD)
def test_weights_of_positions_count_as_weights_of_examples_would(build):
    flat = measure(build(), OUTPUTS.reshape(40, 5), NUMBERS.ravel(), KEPT.ravel())
    assert measure(build(), OUTPUTS, NUMBERS, KEPT) == pytest.approx(flat, rel=1e-5)


@pytest.mark.parametrize("build", BUILD)
def test_an_ignored_class_counts_as_weight_0(build):
    ignored = np.where(KEPT == 0, -100, NUMBERS)
    flat = measure(build(), OUTPUTS.reshape(40, 5), NUMBERS.ravel(), (KEPT.ravel() > 0).astype(np.float32))
    assert measure(build(ignore_index=-100), OUTPUTS, ignored) == pytest.approx(flat, rel=1e-5)


def test_auc_of_positions_that_weigh_or_are_ignored():
    outputs, numbers, kept = OUTPUTS[..., :2], NUMBERS % 2, (KEPT > 0).ravel().astype(np.float32)
    flat = measure(auc(), outputs.reshape(40, 2), numbers.ravel(), KEPT.ravel())
    assert measure(auc(), outputs, numbers, KEPT) == pytest.approx(flat, rel=1e-9)
    flat = measure(auc(), outputs.reshape(40, 2), numbers.ravel(), kept)
    ignored = np.where(KEPT == 0, -100, numbers)
    assert measure(auc(ignore_index=-100), outputs, ignored) == pytest.approx(flat, rel=1e-9)


@pytest.mark.parametrize("built", [accuracy(), top_k_accuracy(2), perplexity(), confusion(), auc(), f1()])
def test_padding_does_not_count(built):
    outputs, targets = np.stack([-LOGITS, LOGITS], axis=1), BITS
    padded = np.concatenate([outputs, np.full((3, 2), np.nan, np.float32)]), np.append(targets, [0, 1, 1])
    weights = np.append(np.ones(40), np.zeros(3)).astype(np.float32)
    assert measure(built, *padded, weights) == pytest.approx(measure(built, outputs, targets))


@pytest.mark.parametrize(
    ("build", "outputs", "targets", "words"),
    [
        (lambda: top_k_accuracy(0), None, None, "at least 1"),
        (lambda: top_k_accuracy(6), SCORES, LABELS, "k=6 of 5 classes"),
        (lambda: accuracy("real"), None, None, r"real numbers.*metrics=\[mse\]"),
        (lambda: auc("real"), None, None, "auc applies to"),
        (lambda: auc(), SCORES, LABELS, "two classes, found 5"),
        (lambda: accuracy(), SCORES, LABELS[:, None], r"targets int64\[40, 1\]|targets int32\[40, 1\]"),
        (lambda: accuracy("binary"), LOGITS, LABELS[:20], r"\[40\] do not match targets \[20\]"),
        (lambda: accuracy(), LOGITS, BITS, "targets=binary"),
    ],
)
def test_mistakes_are_told_in_one_line(build, outputs, targets, words):
    with pytest.raises(ConfigError, match=words):
        as_metric(build()).values(jnp.asarray(outputs), {"targets": jnp.asarray(targets)})
