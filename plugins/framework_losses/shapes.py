"""Outputs and targets brought to one shape, or refused: nothing broadcasts silently."""

from __future__ import annotations

import jax.numpy as jnp

from framework.api import Array
from framework.errors import ConfigError


def as_float(array: Array) -> Array:
    """In single precision at least, so that sums over low-precision outputs keep their digits."""
    return array.astype(array.dtype if array.dtype == jnp.float64 else jnp.float32)


def per_example(values: Array) -> Array:
    """The mean over all axes but the first: [B, ...] to [B]."""
    return values.mean(axis=tuple(range(1, values.ndim)))


def aligned(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Both as floats of one shape [B, ...]; a last axis of 1 that only one of them has is dropped.

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
    """Targets for outputs [B, ..., K]: class numbers [B, ...] or distributions [B, ..., K].

    Raises: ConfigError if they are neither, or there is one class only.
    """
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise ConfigError(
            f"expected outputs [B, ..., K] of K ≥ 2 classes, found {_shape(outputs)}; one logit is binary."
        )
    if targets.shape == outputs.shape or (targets.shape == outputs.shape[:-1] and _are_numbers(targets)):
        return targets
    kind = f"{targets.dtype}{_shape(targets)}"
    wanted = f"class numbers {list(outputs.shape[:-1])} or distributions {_shape(outputs)}"
    raise ConfigError(f"targets {kind} do not match outputs {_shape(outputs)}; expected {wanted}.")


def class_numbers(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Scores [B, ..., K] and the target's class number [B, ...]; of a distribution, the likeliest.

    A single logit, [B, 1] with targets [B] or [B, 1], or [B] with [B], counts as the scores (0, logit) of two classes.

    Raises: ConfigError as `class_targets`.
    """
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        logits, targets = aligned(outputs, targets)
        return jnp.stack([jnp.zeros_like(logits), logits], axis=-1), (targets > 0.5).astype(jnp.int32)
    targets = class_targets(outputs, targets)
    return outputs, targets if targets.ndim < outputs.ndim else targets.argmax(axis=-1)


def _are_numbers(targets: Array) -> bool:
    return bool(jnp.issubdtype(targets.dtype, jnp.integer))


def _shape(array: Array) -> str:
    return str(list(array.shape))
