"""A loss and a metric: both give one value per example, and the core takes the weighted mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Loss
from framework.errors import ConfigError


def short_of_margin(margin: float = 1.0) -> Loss:
    """Hinge loss of two classes: by how much a logit falls short of the margin on the side of its class.

    Outputs are logits [B, 1], targets int [B], 0 or 1.

    Args:
      margin: what is far enough from the boundary, in units of the logits.

    Raises: ConfigError if the margin is not positive.
    """
    if margin <= 0:
        raise ConfigError(f"margin is {margin}, expected more than 0.")

    def loss(outputs: Array, batch: Batch) -> Array:
        return jax.nn.relu(margin - _signed(outputs, batch))

    return loss


def beyond_margin(margin: float = 0.0) -> Loss:
    """Share of examples on the side of their class, and farther from the boundary than the margin.

    Outputs and targets are those of short_of_margin.

    Args:
      margin: in units of the logits; at 0 this is the accuracy.
    """

    def values(outputs: Array, batch: Batch) -> Array:
        return (_signed(outputs, batch) > margin).astype(jnp.float32)

    return values


def _signed(outputs: Array, batch: Batch) -> Array:
    """Logits [B], positive on the right side."""
    return jnp.where(batch["targets"] == 1, outputs[:, 0], -outputs[:, 0])
