"""Weighted means that stay exact through masks, padding, devices and accumulation."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from framework.errors import ConfigError


class Mean(NamedTuple):
    """A mean before its division: merged by adding, divided once, at the end."""

    total: jax.Array  # float [...], weighted sum over examples
    count: jax.Array  # float32 [], summed weight # pyright: ignore[reportIncompatibleMethodOverride]


def weighted(values: jax.Array, weights: jax.Array | None) -> Mean:
    """Sum per-example values by weight.

    Args:
      values: [B, ...].
      weights: [B], or None for weight 1 each. Values of weight 0 do not count, not even if they are not finite.

    Raises: ConfigError if the values are not one per example.
    """
    if values.ndim == 0:
        raise ConfigError("a loss or metric returned one number, expected one value per example: [B], not its mean.")
    values = values.astype(jnp.float32)  # a sum in few bits, or of booleans, would be another number
    if weights is None:
        return Mean(values.sum(axis=0), jnp.full([], values.shape[0], jnp.float32))
    if values.shape[0] != weights.shape[0]:
        raise ConfigError(
            f"a loss or metric returned {values.shape[0]} values for a batch of {weights.shape[0]} examples."
        )
    spread = weights.astype(jnp.float32).reshape(weights.shape[0], *[1] * (values.ndim - 1))
    # The inner where keeps 0 * nan out of the sum; gradients stay clean too, since it selects before multiplying.
    total = (jnp.where(spread == 0, 0, values) * spread).sum(axis=0)
    return Mean(total, weights.astype(jnp.float32).sum())


def merge(left: Mean, right: Mean) -> Mean:
    """The mean of both sets of examples together."""
    return Mean(left.total + right.total, left.count + right.count)
