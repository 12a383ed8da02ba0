"""Losses, one value per example, [B]. Positions after the batch axis, such as those of a sequence, are averaged.

Outputs of float16 and bfloat16 are computed in float32, and values are float32, or float64 for outputs of it.

A batch's "weights" [B, T] weigh the positions: the mean over a batch is then that of all positions by weight.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Counted, TargetedLoss, nan_unless
from framework.errors import ConfigError
from framework_losses.shapes import aligned, as_float, class_targets, counted_numbers, per_example


def softmax_cross_entropy(
    smoothing: float = 0.0, from_log_probabilities: bool = False, ignore_index: int | None = None
) -> TargetedLoss:
    """Cross-entropy of a softmax over the last axis, in nats.

    Outputs are [B, ..., K]; targets either class numbers [B, ...], of which one outside 0 … K-1 gives NaN, or a
    distribution over the classes [B, ..., K], such as one-hot rows.

    Args:
      smoothing: share of each target that is spread evenly over all K classes (Szegedy et al. 2016); 0, so that the
        loss is a likelihood unless asked otherwise.
      from_log_probabilities: whether outputs are log-probabilities already, as after a LogSoftmax layer, not logits.
      ignore_index: a class number, such as -100, of positions and examples that do not count; null for none.

    Raises: ConfigError if smoothing is not in [0, 1), or, when called, if shapes do not match.
    """
    known = isinstance(smoothing, int | float)  # one that is traced can be neither checked nor compared
    if known and not 0 <= smoothing < 1:
        raise ConfigError(f"softmax_cross_entropy: smoothing should be at least 0 and below 1, found {smoothing}.")

    def loss(outputs: Array, batch: Batch) -> Array | Counted:
        targets = class_targets(outputs, batch["targets"])
        scores = as_float(outputs)
        log_probabilities = scores if from_log_probabilities else jax.nn.log_softmax(scores)
        values = _cross_entropy(log_probabilities, targets)
        if not known or smoothing > 0:
            values = (1 - smoothing) * values - smoothing * log_probabilities.mean(axis=-1)
        numbers = targets.ndim < scores.ndim
        counted = counted_numbers(targets, scores.shape[-1], ignore_index)[1] if numbers else None
        return per_example(values, batch, counted)

    return TargetedLoss(loss, "classes", ignore_index)


def binary_cross_entropy() -> TargetedLoss:
    """Cross-entropy of a sigmoid, in nats: outputs are logits [B, ...], targets of the same shape lie in [0, 1].

    Each label counts by itself: [B, K] are K yes/no labels of an example. Outputs [B, 1] go with targets [B] too.

    Raises: ConfigError, when called, if shapes do not match.
    """

    def loss(outputs: Array, batch: Batch) -> Array | Counted:
        logits, targets = aligned(outputs, batch["targets"])
        # Both logarithms, for 1 - sigmoid(x) would lose all digits of a probability near 1.
        values = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
        return per_example(values, batch)

    return TargetedLoss(loss, "binary")


def squared_error() -> TargetedLoss:
    """Squared difference, not halved, in squared units of the targets.

    Outputs and targets are real, [B, ...] of one shape; outputs [B, 1] go with targets [B] too.

    Raises: ConfigError, when called, if shapes do not match.
    """

    def loss(outputs: Array, batch: Batch) -> Array | Counted:
        predicted, targets = aligned(outputs, batch["targets"])
        return per_example(jnp.square(predicted - targets), batch)

    return TargetedLoss(loss, "real")


def absolute_error() -> TargetedLoss:
    """Absolute difference, in units of the targets.

    Outputs and targets are real, [B, ...] of one shape; outputs [B, 1] go with targets [B] too.

    Raises: ConfigError, when called, if shapes do not match.
    """

    def loss(outputs: Array, batch: Batch) -> Array | Counted:
        predicted, targets = aligned(outputs, batch["targets"])
        return per_example(jnp.abs(predicted - targets), batch)

    return TargetedLoss(loss, "real")


def huber(delta: float = 1.0) -> TargetedLoss:
    """Half the squared difference near 0, linear beyond delta (Huber 1964); shapes are those of squared_error.

    Args:
      delta: where the two meet, in units of the targets; 1 suits targets of unit variance.

    Raises: ConfigError if delta is not positive, or, when called, if shapes do not match.
    """
    if isinstance(delta, int | float) and not delta > 0:
        raise ConfigError(f"huber: delta should be positive, found {delta}.")

    def loss(outputs: Array, batch: Batch) -> Array | Counted:
        predicted, targets = aligned(outputs, batch["targets"])
        distance = jnp.abs(predicted - targets)
        near = jnp.minimum(distance, delta)
        return per_example(near * (distance - near / 2), batch)

    return TargetedLoss(loss, "real")


def _cross_entropy(log_probabilities: Array, targets: Array) -> Array:
    """Reduce [..., K] by class numbers [...] or distributions [..., K] to [...]."""
    if targets.ndim < log_probabilities.ndim:
        # Compared, not gathered: the gradient of a gather is a scatter, which runs alone and one example at a time.
        numbers, classes = targets.astype(jnp.int32), log_probabilities.shape[-1]
        chosen = numbers[..., None] == jnp.arange(classes, dtype=jnp.int32)
        picked = jnp.where(chosen, log_probabilities, 0).sum(axis=-1)
        return nan_unless((numbers >= 0) & (numbers < classes), -picked)
    share = as_float(targets)
    # A class without share does not count, though its log-probability be -inf.
    return -jnp.where(share == 0, 0, share * log_probabilities).sum(axis=-1)
