"""Metrics: means over examples, and statistics that become numbers at the end only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, Loss, Metric
from framework.errors import ConfigError
from framework_losses.losses import softmax_cross_entropy
from framework_losses.shapes import class_numbers, per_example


def accuracy() -> Loss:
    """Share of examples whose likeliest class is the target; of positions, where an example has several.

    Outputs are scores [B, ..., K] with targets as for softmax_cross_entropy, or logits [B] or [B, 1] of a class 1.
    Ties go to the lower class.
    """

    def values(outputs: Array, batch: Batch) -> Array:
        scores, targets = class_numbers(outputs, batch["targets"])
        return per_example((scores.argmax(axis=-1) == targets).astype(jnp.float32))

    return values


def top_k_accuracy(k: int = 5) -> Loss:
    """Share of examples whose target is among the k likeliest classes; shapes are those of accuracy.

    Args:
      k: 5, as is custom for ImageNet. Ties go to the lower class.

    Raises: ConfigError if k is below 1, or, when called, above the number of classes.
    """
    if k < 1:
        raise ConfigError(f"top_k_accuracy: k should be at least 1, found {k}.")

    def values(outputs: Array, batch: Batch) -> Array:
        scores, targets = class_numbers(outputs, batch["targets"])
        if k > scores.shape[-1]:
            raise ConfigError(f"top_k_accuracy: k={k} of {scores.shape[-1]} classes; lower k.")
        _, likeliest = jax.lax.top_k(scores, k)
        hit = (likeliest == targets[..., None].astype(likeliest.dtype)).any(axis=-1)
        return per_example(hit.astype(jnp.float32))

    return values


def perplexity(from_log_probabilities: bool = False) -> Metric:
    """The exponential of the mean cross-entropy: among how many equally likely classes the model hesitates.

    It is not a mean of perplexities: all examples go into one mean, and that into the exponential.

    Args:
      from_log_probabilities: as for softmax_cross_entropy.
    """

    def result(total: Any, count: float) -> float:
        mean = float(total / count)
        return math.exp(mean) if not mean > 700 else math.inf  # beyond it a float overflows

    return Metric(softmax_cross_entropy(from_log_probabilities=from_log_probabilities), result)


def confusion(per_class: bool = True) -> Metric:
    """Balanced accuracy and the recall of each class, from the confusion matrix; shapes are those of accuracy.

    The statistic is [B, K, K] (target, prediction), so it is meant for up to about a hundred classes. Balanced accuracy
    is the mean recall of the classes that occur among the targets; a class that does not has no recall.

    Args:
      per_class: whether to tell "recall_0", "recall_1", … beside "balanced_accuracy".
    """

    def values(outputs: Array, batch: Batch) -> Array:
        scores, targets = class_numbers(outputs, batch["targets"])
        classes = scores.shape[-1]
        target, predicted = jax.nn.one_hot(targets, classes), jax.nn.one_hot(scores.argmax(axis=-1), classes)
        pairs = target[..., :, None] * predicted[..., None, :]
        return pairs.mean(axis=tuple(range(1, pairs.ndim - 2)))

    def result(total: Any, count: float) -> Mapping[str, float]:
        support = total.sum(axis=1)
        recalls = {k: float(total[k, k] / support[k]) for k in range(len(total)) if support[k] > 0}
        balanced = float(np.mean(list(recalls.values()))) if recalls else math.nan
        return {"balanced_accuracy": balanced, **({f"recall_{k}": r for k, r in recalls.items()} if per_class else {})}

    return Metric(values, result)


def auc(bins: int = 256) -> Metric:
    """Area under the ROC curve of a two-class model: how often a random positive outscores a random negative.

    Outputs are logits [B] or [B, 1] of class 1, or scores [B, 2] of both, with targets as for accuracy. The statistic
    is a histogram of scores for each class, [B, 2, bins]; its trapezoid counts a pair of one bin as a tie: half right.
    So the area is off by at most half the share of pairs that fall into one bin, and exact if none does. It is NaN
    while only one class has been seen.

    Args:
      bins: equal parts of x / (1 + |x|), which keeps apart even scores that a sigmoid would round to 1.

    Raises: ConfigError if there are fewer than two bins, or, when called, more than two classes.
    """
    if bins < 2:
        raise ConfigError(f"auc: bins should be at least 2, found {bins}.")

    def values(outputs: Array, batch: Batch) -> Array:
        scores, targets = class_numbers(outputs, batch["targets"])
        if scores.shape[-1] != 2:
            raise ConfigError(
                f"auc: expected a model of two classes, found {scores.shape[-1]}; take confusion instead."
            )
        score = jnp.clip((scores[..., 1] - scores[..., 0]).astype(jnp.float32), -1e6, 1e6)  # inf / inf is no place
        place = jnp.floor((jax.nn.soft_sign(score) + 1) / 2 * bins).astype(jnp.int32)
        histogram = jax.nn.one_hot(jnp.clip(place, 0, bins - 1), bins)
        counts = jax.nn.one_hot(targets, 2)[..., :, None] * histogram[..., None, :]
        return counts.mean(axis=tuple(range(1, counts.ndim - 2)))

    def result(total: Any, count: float) -> float:
        negatives, positives = total
        pairs = negatives.sum() * positives.sum()
        below = np.cumsum(negatives) - negatives / 2
        return float((positives * below).sum() / pairs) if pairs > 0 else math.nan

    return Metric(values, result)
