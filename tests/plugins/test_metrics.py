"""Metrics, held against counting by hand in NumPy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework.api import as_metric
from framework.errors import ConfigError
from framework.tasks.metrics import weighted
from framework_losses.metrics import accuracy, auc, confusion, perplexity, top_k_accuracy

RANDOM = np.random.default_rng(1)
SCORES = RANDOM.normal(size=(40, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 5, size=40)
LOGITS = (5 * RANDOM.normal(size=40)).astype(np.float32)
BITS = (LOGITS + 4 * RANDOM.normal(size=40) > 0).astype(np.int32)
WEIGHTS = RANDOM.integers(0, 3, size=40).astype(np.float32)


def measure(built, outputs, targets, weights=None):
    """As the core does: weighted sums of two halves, merged, and the result on the host."""
    metric = as_metric(built)
    values = jax.jit(metric.values)(jnp.asarray(outputs), {"targets": jnp.asarray(targets)})
    assert values.shape[0] == len(outputs)
    weights = jnp.ones(len(outputs)) if weights is None else jnp.asarray(weights)
    mean = jax.tree.map(jnp.add, weighted(values[:13], weights[:13]), weighted(values[13:], weights[13:]))
    return metric.result(np.asarray(mean.total, np.float64), float(mean.count))


@pytest.mark.parametrize(("k", "weights"), [(1, None), (2, None), (5, None), (1, WEIGHTS), (2, WEIGHTS)])
def test_top_k_accuracy(k, weights):
    order = np.argsort(-SCORES, axis=1, kind="stable")[:, :k]
    wanted = np.average([label in row for label, row in zip(LABELS, order, strict=True)], weights=weights)
    assert measure(top_k_accuracy(k), SCORES, LABELS, weights) == pytest.approx(wanted)
    if k == 1:
        assert measure(accuracy(), SCORES, LABELS, weights) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("outputs", "targets", "wanted"),
    [
        ([[1.0, 3.0], [2.0, 0.0]], [1, 1], 0.5),
        ([[1.0, 3.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], 0.5),
        ([[1.0, 1.0], [1.0, 1.0]], [0, 1], 0.5),
        ([2.0, -1.0], [1, 1], 0.5),
        ([[2.0], [-1.0]], [1, 0], 1.0),
        ([[2.0], [-1.0]], [[0], [0]], 0.5),
        ([[[1.0, 3.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], [[1, 1], [1, 1]], 0.75),
    ],
    ids=["numbers", "one-hot", "ties", "logits [B]", "logits [B,1]-[B]", "logits [B,1]", "sequence"],
)
def test_accuracy_takes_the_targets_of_the_losses(outputs, targets, wanted):
    assert measure(accuracy(), np.array(outputs, np.float32), np.array(targets)) == pytest.approx(wanted)


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


@pytest.mark.parametrize(
    ("layout", "bins", "weights"),
    [
        ("[B]", 8, WEIGHTS),
        ("[B]", 64, np.ones(40)),
        ("[B]", 4096, WEIGHTS),
        ("[B,1]", 64, WEIGHTS),
        ("[B,2]", 64, WEIGHTS),
        ("[B,2]", 4096, np.ones(40)),
    ],
)
def test_auc(layout, bins, weights):
    outputs = {
        "[B]": LOGITS,
        "[B,1]": LOGITS[:, None],
        "[B,2]": np.stack([np.ones_like(LOGITS), 1 + LOGITS], axis=1),
    }[layout]
    found, wanted = measure(auc(bins), outputs, BITS, weights), pairwise_auc(LOGITS, BITS, weights)
    place = np.floor((LOGITS / (1 + np.abs(LOGITS)) + 1) / 2 * bins)
    share = np.array([(weights * (place == b))[np.equal(BITS, c)].sum() for b in range(bins) for c in (0, 1)]).reshape(
        bins, 2
    )
    shared = (share / share.sum(axis=0)).prod(axis=1).sum()
    assert abs(found - wanted) <= shared / 2 + 1e-6  # the bound that the docstring promises
    assert bins < 4096 or found == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("logits", "targets", "wanted"),
    [
        ([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1], 1.0),
        ([-2.0, -1.0, 1.0, 2.0], [1, 1, 0, 0], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([40.0, 90.0, 30.0, 900.0], [0, 1, 0, 1], 1.0),
        ([np.inf, -np.inf], [1, 0], 1.0),
        ([1.0, 2.0], [1, 1], np.nan),
    ],
    ids=["perfect", "inverted", "ties", "beyond a sigmoid", "infinite", "one class"],
)
def test_auc_at_its_limits(logits, targets, wanted):
    found = measure(auc(), np.array(logits, np.float32), np.array(targets))
    assert found == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("built", [accuracy(), top_k_accuracy(2), perplexity(), confusion(), auc()])
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
        (lambda: auc(1), None, None, "at least 2"),
        (lambda: auc(), SCORES, LABELS, "two classes, found 5"),
        (lambda: accuracy(), SCORES, LABELS[:, None], r"targets int64\[40, 1\]|targets int32\[40, 1\]"),
        (lambda: accuracy(), LOGITS, LABELS[:20], r"\[40\] do not match targets \[20\]"),
    ],
)
def test_mistakes_are_told_in_one_line(build, outputs, targets, words):
    with pytest.raises(ConfigError, match=words):
        as_metric(build()).values(jnp.asarray(outputs), {"targets": jnp.asarray(targets)})
