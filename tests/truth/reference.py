"""Every built-in loss and metric in NumPy's float64 and scikit-learn, written apart from the framework."""

from __future__ import annotations

import numpy as np
import sklearn.metrics as sk
from scipy.special import log_softmax


def classes(logits, targets, weights):
    """Losses and metrics of class numbers [N] with logits [N, K], by tag."""
    logits = np.asarray(logits, np.float64)
    logs = log_softmax(logits, axis=1)
    loss = np.average(-logs[np.arange(len(targets)), targets], weights=weights)
    predicted, count = logits.argmax(axis=1), logits.shape[1]
    best = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    kept = weights > 0
    seen = [k for k in range(count) if (kept & (targets == k)).any()]
    recalls = {k: np.average(predicted[targets == k] == k, weights=weights[targets == k]) for k in seen}
    found = {
        "loss": loss,
        "softmax_cross_entropy": loss,
        "perplexity": np.exp(loss),
        "accuracy": np.average(predicted == targets, weights=weights),
        "top_k_accuracy": np.average((best == targets[:, None]).any(axis=1), weights=weights),
        "balanced_accuracy": np.mean(list(recalls.values())),
        "confusion/balanced_accuracy": np.mean(list(recalls.values())),
        **{f"confusion/recall_{k}": recall for k, recall in recalls.items()},
        "f1": sk.f1_score(
            targets[kept], predicted[kept], sample_weight=weights[kept], average="macro", zero_division=np.nan
        ),
    }
    if count == 2:
        found["auc"] = area(targets[kept], (logits[:, 1] - logits[:, 0])[kept], weights[kept])
    return found


def binary(logits, targets, weights):
    """Losses and metrics of yes/no labels [N, K] with logits of the same shape, by tag."""
    logits, each = np.asarray(logits, np.float64), np.repeat(weights[:, None], targets.shape[1], axis=1)
    losses = np.logaddexp(0, -logits) * targets + np.logaddexp(0, logits) * (1 - targets)
    loss, said, kept = np.average(losses, weights=each), (logits > 0).astype(int), weights > 0
    return {
        "loss": loss,
        "binary_cross_entropy": loss,
        "accuracy": np.average(said == targets, weights=each),
        "subset_accuracy": sk.accuracy_score(targets[kept], said[kept], sample_weight=weights[kept]),
        "f1": sk.f1_score(
            targets[kept], said[kept], sample_weight=weights[kept], average="macro", zero_division=np.nan
        ),
        "auc": area(targets[kept].ravel(), logits[kept].ravel(), each[kept].ravel()),
    }


def real(outputs, targets, weights):
    """Losses and metrics of real targets [N, K] with outputs of the same shape, by tag; by squared error."""
    outputs, each = np.asarray(outputs, np.float64), np.repeat(weights[:, None], targets.shape[1], axis=1)
    errors = np.abs(outputs - targets)
    near = np.minimum(errors, 1.0)
    squared, absolute = (np.average(values, weights=each) for values in (errors**2, errors))
    return {
        "loss": squared,
        "squared_error": squared,
        "mse": squared,
        "rmse": np.sqrt(squared),
        "mae": absolute,
        "absolute_error": absolute,
        "huber": np.average(near * (errors - near / 2), weights=each),
        "r2": sk.r2_score(targets, outputs, sample_weight=weights) if len(targets) > 1 else np.nan,
    }


def area(labels, scores, weights):
    """Area under the ROC curve; NaN where one of the two does not occur."""
    return sk.roc_auc_score(labels, scores, sample_weight=weights) if len(set(labels)) == 2 else np.nan


COLLECTED = {"auc", "r2"}
"""Metrics that are measured in evaluations alone."""
