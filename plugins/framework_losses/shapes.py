"""Outputs and targets brought to one shape, or refused: nothing broadcasts silently, and nothing is guessed."""

from __future__ import annotations

import jax.numpy as jnp

from framework.api import Array, Batch, Counted
from framework.errors import ConfigError


def as_float(array: Array) -> Array:
    """Cast [...] of any dtype to float32, or leave it float64, so that sums of bfloat16 outputs keep their digits."""
    return array.astype(array.dtype if array.dtype == jnp.float64 else jnp.float32)


def per_example(values: Array, batch: Batch, counted: Array | None = None) -> Array | Counted:
    """Average over all axes but the first: [B, ...] to [B].

    Args:
      values: one for each position.
      batch: where its "weights" are [B, T], they weigh the positions.
      counted: bool [B, ...], which positions count; None for all.

    Returns: [B], or `Counted` where some positions are left out or weigh less.

    Raises: ConfigError if weights of positions do not fit the positions.
    """
    axes = tuple(range(1, values.ndim))
    shares = position_weights(values.shape, batch, counted)
    if shares is None:
        return values.mean(axis=axes)
    counts = shares.mean(axis=axes)
    # The inner where keeps 0 * nan out of the sum, and out of gradients.
    total = (jnp.where(shares == 0, 0, values) * shares).mean(axis=axes)
    return Counted(total / jnp.where(counts == 0, 1, counts), counts)


def position_weights(shape: tuple[int, ...], batch: Batch, counted: Array | None = None) -> Array | None:
    """Return what each position of `shape` [B, ...] weighs within its example, float32; None if all weigh the same.

    Raises: ConfigError if weights of positions do not fit the positions.
    """
    weights = batch.get("weights")
    if weights is not None and jnp.ndim(weights) < 2:
        weights = None  # the core's affair
    if weights is None and counted is None:
        return None
    shares = jnp.ones(shape, jnp.float32)
    if weights is not None:
        if weights.shape != shape[: weights.ndim]:
            raise ConfigError(
                f"weights {_shape(weights)} do not fit values {list(shape)}; expected [B], or one for each position."
            )
        shares = shares * weights.astype(jnp.float32).reshape(*weights.shape, *[1] * (len(shape) - weights.ndim))
    return shares if counted is None else jnp.where(counted, shares, 0)


def aligned(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Return both as floats of one shape [B, ...]; a last axis of 1 that only one of them has is dropped.

    Raises: ConfigError if their shapes differ otherwise.
    """
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    elif targets.shape == (*outputs.shape, 1):
        targets = targets[..., 0]
    if outputs.shape != targets.shape or not outputs.ndim:
        raise ConfigError(
            f"outputs {_shape(outputs)} do not match targets {_shape(targets)}; expected one shape [B, ...]."
        )
    outputs = as_float(outputs)
    return outputs, targets.astype(outputs.dtype)


def class_targets(outputs: Array, targets: Array) -> Array:
    """Return targets for outputs [B, ..., K]: class numbers [B, ...] or distributions [B, ..., K].

    Raises: ConfigError if they are neither, or there is one class only.
    """
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise ConfigError(
            f"expected outputs [B, ..., K] of K ≥ 2 classes, found {_shape(outputs)}; one logit is binary: "
            "loss=binary_cross_entropy."
        )
    if targets.shape == outputs.shape or (targets.shape == outputs.shape[:-1] and _are_numbers(targets)):
        return targets
    kind = f"{targets.dtype}{_shape(targets)}"
    wanted = f"class numbers {list(outputs.shape[:-1])} or distributions {_shape(outputs)}"
    raise ConfigError(f"targets {kind} do not match outputs {_shape(outputs)}; expected {wanted}.")


def class_numbers(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Return scores [B, ..., K] and the target's class number [B, ...]; of a distribution, the likeliest.

    Raises: ConfigError as `class_targets`.
    """
    targets = class_targets(outputs, targets)
    return as_float(outputs), (targets if targets.ndim < outputs.ndim else targets.argmax(axis=-1)).astype(jnp.int32)


def binary_labels(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Return logits [B, ...] and labels of the same shape, int32: 1 for targets above one half, else 0.

    Raises: ConfigError as `aligned`.
    """
    logits, targets = aligned(outputs, targets)
    return logits, (targets > 0.5).astype(jnp.int32)


def counted_numbers(numbers: Array, classes: int, ignore_index: int | None) -> tuple[Array, Array | None]:
    """Tell class numbers that are in range, bool [...], and those that count: all but `ignore_index`, None for all."""
    sound = (numbers >= 0) & (numbers < classes)
    return sound, None if ignore_index is None else numbers != ignore_index


def _are_numbers(targets: Array) -> bool:
    return bool(jnp.issubdtype(targets.dtype, jnp.integer))


def _shape(array: Array) -> str:
    return str(list(array.shape))
