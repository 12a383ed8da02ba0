"""Several losses as one, such as those of the heads of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from framework.api import Array, Batch, Counted, Loss, PyTree, WeightedLoss, keyed
from framework.errors import ConfigError, nearest


def weighted(losses: Mapping[str, Loss], weights: Mapping[str, float] | None = None) -> WeightedLoss:
    """Weighted sum of losses, such as those of a model's heads.

    `{digit: {name: softmax_cross_entropy, on_head: digit, on_target: digit}, angle: {name: huber, on_head: angle,
    on_target: angle}}` are two terms. An example that a term leaves out, such as by `ignore_index`, has 0 there: the
    mean is over all examples of the batch.

    Args:
      losses: the terms by name.
      weights: of the terms by name; 1 for those that are left out.

    Raises: ConfigError without a term, for the weight of another term, or, when called, for batches whose weights are
      those of positions.
    """
    factors = dict(weights or {})
    if not losses:
        raise ConfigError("expected at least one loss, such as {digit: softmax_cross_entropy}.", key="losses")
    if others := sorted(factors.keys() - losses.keys()):
        raise ConfigError(f"there is no loss '{others[0]}'.{nearest(others[0], losses)}", key=f"weights.{others[0]}")
    terms = {name: keyed(loss) for name, loss in losses.items()}

    def values(outputs: PyTree, batch: Batch, key: Array | None = None) -> Array:
        if np.ndim(batch.get("weights", 0)) > 1:
            raise ConfigError("a sum of losses takes weights of examples, [B], not of their positions.")
        each = [factors.get(name, 1.0) * _whole(term(outputs, batch, key)) for name, term in terms.items()]
        return sum(each[1:], each[0])

    return WeightedLoss(values, losses)


def _whole(values: Any) -> Array:
    """Return values [B] that are 0 where an example does not count."""
    return values.values * values.counts if isinstance(values, Counted) else values
