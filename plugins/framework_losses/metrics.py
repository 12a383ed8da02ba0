"""Metrics of classes and of yes/no labels. An option `targets` says which of the two; by default the loss does.

Where positions of an example weigh differently (a batch's "weights" [B, T]), or some are left out (`ignore_index`), all
metrics are taken over the positions that count. A class number out of range makes a metric NaN: it is never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, Counted, Metric, Targets, Undefined, nan_unless
from framework.errors import ConfigError
from framework_losses.losses import softmax_cross_entropy
from framework_losses.shapes import binary_labels, class_numbers, counted_numbers, per_example, position_weights

EITHER = ("classes", "binary")


def accuracy(targets: Targets | None = None, ignore_index: int | None = None) -> Metric:
    """Share of right predictions among all positions.

    Args:
      targets: "classes": outputs are scores [B, ..., K] and the likeliest class is right if it is the target, a number
        [B, ...] or the likeliest of a distribution [B, ..., K]; ties go to the lower class. "binary": outputs are
        logits of the shape of the labels, and each label is right if its logit is above 0 just where it is 1. Null
        takes what the loss says, else "classes".
      ignore_index: a class number of positions that do not count; null for none.

    Raises: ConfigError if targets are real numbers.
    """
    kind = _kind("accuracy", targets)

    def values(outputs: Array, batch: Batch) -> Array | Counted:
        if kind == "binary":
            logits, labels = binary_labels(outputs, batch["targets"])
            return per_example(((logits > 0) == (labels == 1)).astype(jnp.float32), batch)
        scores, numbers = _numbers(outputs, batch)
        right = (scores.argmax(axis=-1) == numbers).astype(jnp.float32)
        return _of_positions(right, numbers, scores.shape[-1], ignore_index, batch)

    return Metric(values, _mean, True, (kind,))


def subset_accuracy() -> Metric:
    """Share of examples all of whose yes/no labels are right: outputs are logits [B, ..., K], targets [B, ..., K].

    scikit-learn's `accuracy_score` of multi-label targets.

    Raises: ConfigError, when called, if shapes do not match.
    """

    def values(outputs: Array, batch: Batch) -> Array | Counted:
        logits, labels = binary_labels(outputs, batch["targets"])
        right = (logits > 0) == (labels == 1)
        return per_example(right.all(axis=tuple(range(1, right.ndim))).astype(jnp.float32), _unpositioned(batch))

    return Metric(values, _mean, True, ("binary",))


def top_k_accuracy(k: int = 5, ignore_index: int | None = None) -> Metric:
    """Share of positions whose target is among the k likeliest classes; shapes are those of accuracy with classes.

    Args:
      k: 5, as is custom for ImageNet. Ties go to the lower class.
      ignore_index: a class number of positions that do not count; null for none.

    Raises: ConfigError if k is below 1, or, when called, above the number of classes.
    """
    if k < 1:
        raise ConfigError(f"top_k_accuracy: k should be at least 1, found {k}.")

    def values(outputs: Array, batch: Batch) -> Array | Counted:
        scores, numbers = _numbers(outputs, batch)
        if k > scores.shape[-1]:
            raise ConfigError(f"top_k_accuracy: k={k} of {scores.shape[-1]} classes; lower k.")
        _, likeliest = jax.lax.top_k(scores, k)
        hit = (likeliest == numbers[..., None].astype(likeliest.dtype)).any(axis=-1)
        return _of_positions(hit.astype(jnp.float32), numbers, scores.shape[-1], ignore_index, batch)

    return Metric(values, _mean, True, ("classes",))


def perplexity(from_log_probabilities: bool = False, ignore_index: int | None = None) -> Metric:
    """Exponential of the mean cross-entropy: among how many equally likely classes the model hesitates.

    It is not a mean of perplexities: all examples go into one mean, and that into the exponential.

    Args:
      from_log_probabilities: as for softmax_cross_entropy.
      ignore_index: as for softmax_cross_entropy.
    """

    def result(total: Any, count: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(np.float64(total / count)))

    loss = softmax_cross_entropy(from_log_probabilities=from_log_probabilities, ignore_index=ignore_index)
    return Metric(loss.values, result, False, ("classes",))


def confusion(per_class: bool = True, ignore_index: int | None = None) -> Metric:
    """Balanced accuracy and the recall of each class, from the confusion matrix.

    The statistic is [B, K, K] (target, prediction), so it is meant for up to about a hundred classes. Balanced accuracy
    is the mean recall of the classes that occur among the targets; a class that does not has no recall.

    Args:
      per_class: whether to tell "recall_0", "recall_1", … beside "balanced_accuracy".
      ignore_index: a class number of positions that do not count; null for none.
    """

    def result(total: Any, count: float) -> Mapping[str, float]:
        balanced, recalls = _recalls(total)
        return {"balanced_accuracy": balanced, **({f"recall_{k}": r for k, r in recalls.items()} if per_class else {})}

    return Metric(_pairs(ignore_index), result, True, ("classes",))


def balanced_accuracy(ignore_index: int | None = None) -> Metric:
    """Mean recall of the classes that occur among the targets, as `confusion` tells beside the recall of each.

    Args:
      ignore_index: a class number of positions that do not count; null for none.
    """

    def result(total: Any, count: float) -> float:
        return _recalls(total)[0]

    return Metric(_pairs(ignore_index), result, True, ("classes",))


def f1(
    average: Literal["macro", "micro"] = "macro", targets: Targets | None = None, ignore_index: int | None = None
) -> Metric:
    """F1 score, 2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall.

    Args:
      average: "macro" is the mean over the classes or labels that occur among targets or predictions, "micro" counts
        all of them together. One yes/no label has one score, that of yes.
      targets: as for accuracy.
      ignore_index: a class number of positions that do not count; null for none.

    Raises: ConfigError if targets are real numbers.
    """
    kind = _kind("f1", targets)
    pairs = _pairs(ignore_index)

    def labels(outputs: Array, batch: Batch) -> Array | Counted:
        """Return [B, K, 3]: true positives, false positives and false negatives of each label."""
        logits, found = binary_labels(outputs, batch["targets"])
        logits, found = (x[..., None] if x.ndim == 1 else x for x in (logits, found))
        said, true = logits > 0, found == 1
        counts = jnp.stack([said & true, said & ~true, ~said & true], axis=-1).astype(jnp.float32)
        return _over_positions(counts, logits.shape[:-1], _unlabelled(batch, found.shape), None)

    def result(total: Any, count: float) -> float:
        if kind == "binary":
            hits, wrong, missed = np.moveaxis(total, -1, 0)
        else:
            hits = np.diagonal(total)
            wrong, missed = total.sum(axis=0) - hits, total.sum(axis=1) - hits
        if average == "micro":
            hits, wrong, missed = (np.sum(part, keepdims=True) for part in (hits, wrong, missed))
        whole = 2 * hits + wrong + missed
        occurring = ~(whole == 0)
        if not occurring.any():
            return Undefined("no label occurs among targets or predictions")
        return float(np.mean(2 * hits[occurring] / whole[occurring]))

    return Metric(labels if kind == "binary" else pairs, result, True, (kind,))


def auc(targets: Targets | None = None, ignore_index: int | None = None) -> Metric:
    """Area under the ROC curve of yes or no: how often a random positive outscores a random negative; ties count half.

    It is exact, whatever the scale of the scores: those of all examples are kept in memory (12 bytes each) and sorted,
    in evaluations alone. NaN while only one of the two has been seen. Hanley and McNeil 1982.

    Args:
      targets: "binary": outputs are logits, or scores of any scale, of the shape of the labels, which are all taken
        together. "classes": outputs are scores [B, ..., 2] of two classes, targets as for accuracy. Null takes what the
        loss says, else "classes".
      ignore_index: a class number of positions that do not count; null for none.

    Raises: ConfigError if targets are real numbers, or, when called, for more than two classes.
    """
    kind = _kind("auc", targets)

    def values(outputs: Array, batch: Batch) -> Array:
        """Return [B, P, 3]: score, label and weight of each position."""
        if kind == "binary":
            score, labels = binary_labels(outputs, batch["targets"])
            sound, counted = counted_numbers(labels, 2, None)
        else:
            scores, labels = _numbers(outputs, batch)
            if scores.shape[-1] != 2:
                raise ConfigError(
                    f"auc: expected a model of two classes, found {scores.shape[-1]}; take balanced_accuracy instead."
                )
            score = scores[..., 1] - scores[..., 0]
            sound, counted = counted_numbers(labels, 2, ignore_index)
        shares = position_weights(score.shape, batch, counted)
        shares = jnp.ones(score.shape, jnp.float32) if shares is None else shares
        parts = (score, nan_unless(sound, labels.astype(score.dtype)), shares)
        return jnp.stack([part.astype(jnp.float32).reshape(len(part), -1) for part in parts], axis=-1)

    def result(total: Any, count: Any) -> float:
        score, label, share = np.moveaxis(np.asarray(total, np.float64), -1, 0)
        weight = share * np.asarray(count)[:, None]
        kept = weight > 0
        return area(score[kept], label[kept], weight[kept])

    return Metric(values, result, True, (kind,), collect=True)


def area(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted area under the ROC curve of scores [N] and labels [N], 0 or 1; undefined without both."""
    if np.isnan(scores).any():
        return Undefined("a score is not a number")
    if np.isnan(labels).any():
        return Undefined("a class number is out of range")
    places = np.unique(scores, return_inverse=True)[1]
    negatives, positives = (np.bincount(places, weights * (labels == label), len(scores)) for label in (0, 1))
    pairs = negatives.sum() * positives.sum()
    below = np.cumsum(negatives) - negatives / 2
    if pairs > 0:
        return float((positives * below).sum() / pairs)
    only = "1" if positives.sum() > 0 else "0"
    return Undefined(f"all labels are {only}, and it compares 1 with 0" if len(labels) else "no example counts")


def _kind(name: str, targets: Targets | None) -> Literal["classes", "binary"]:
    """Return what a metric takes targets for.

    Raises: ConfigError if they are real numbers.
    """
    if targets == "real":
        raise ConfigError(
            f"{name} applies to classes or yes/no labels, and the targets are real numbers, as the loss says; take "
            "metrics=[mse], or rmse, mae, r2."
        )
    return targets or "classes"


def _mean(total: Any, count: float) -> float:
    return float(total / count)


def _numbers(outputs: Array, batch: Batch) -> tuple[Array, Array]:
    """Return scores [B, ..., K] and class numbers [B, ...].

    Raises: ConfigError, with what to say where the targets are labels.
    """
    try:
        return class_numbers(outputs, batch["targets"])
    except ConfigError as error:
        raise ConfigError(f"{error} For yes/no labels set targets=binary.") from error


def _of_positions(values: Array, numbers: Array, classes: int, ignore: int | None, batch: Batch) -> Array | Counted:
    """Average over positions; one whose class number is out of range is NaN."""
    sound, counted = counted_numbers(numbers, classes, ignore)
    return per_example(nan_unless(sound, values), batch, counted)


def _recalls(total: Any) -> tuple[float, Mapping[int, float]]:
    """Return balanced accuracy, and the recall of each class that occurs, from a confusion matrix [K, K]."""
    support = total.sum(axis=1)
    seen = np.flatnonzero(~(support == 0))  # one that is NaN was seen
    recalls = {int(k): float(total[k, k] / support[k]) for k in seen}
    return (float(np.mean(list(recalls.values()))) if recalls else Undefined("no target counts")), recalls


def _pairs(ignore_index: int | None) -> Callable[[Array, Batch], Array | Counted]:
    """Make the statistic [B, K, K] of targets and predictions, which sums to 1 for each example."""

    def values(outputs: Array, batch: Batch) -> Array | Counted:
        scores, numbers = _numbers(outputs, batch)
        classes = scores.shape[-1]
        target, predicted = jax.nn.one_hot(numbers, classes), jax.nn.one_hot(scores.argmax(axis=-1), classes)
        sound, counted = counted_numbers(numbers, classes, ignore_index)
        pairs = nan_unless(sound[..., None, None], target[..., :, None] * predicted[..., None, :])
        return _over_positions(pairs, numbers.shape, batch, counted)

    return values


def _over_positions(values: Array, shape: tuple[int, ...], batch: Batch, counted: Array | None) -> Array | Counted:
    """Average statistics [*shape, ...] over the positions, all axes of `shape` [B, ...] but the first."""
    axes = tuple(range(1, len(shape)))
    shares = position_weights(shape, batch, counted)
    if shares is None:
        return values.mean(axis=axes)
    spread = shares.reshape(*shape, *[1] * (values.ndim - len(shape)))
    counts = shares.mean(axis=axes)
    total = (jnp.where(spread == 0, 0, values) * spread).mean(axis=axes)
    return Counted(total / jnp.where(counts == 0, 1, counts).reshape(-1, *[1] * (total.ndim - 1)), counts)


def _unpositioned(batch: Batch) -> Batch:
    """Refuse weights of single labels, which do not fit a statement about all labels of an example."""
    weights = batch.get("weights")
    if weights is not None and jnp.ndim(weights) > 1:
        raise ConfigError(f"subset_accuracy takes weights [B], one for an example, found {list(weights.shape)}.")
    return batch


def _unlabelled(batch: Batch, shape: tuple[int, ...]) -> Batch:
    """Refuse weights of single labels, of which each has a score of its own."""
    weights = batch.get("weights")
    if weights is not None and 1 < jnp.ndim(weights) >= len(shape) > 1:
        raise ConfigError(
            f"f1 takes weights of examples or positions, found {list(weights.shape)}, one for each label."
        )
    return batch
