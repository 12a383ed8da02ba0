"""Metrics of regressions: outputs and targets are [B, ...] of one shape; outputs [B, 1] go with targets [B] too.

Each number of an example counts the same: a model of several outputs is judged over all of them together, but for r2.
All raise ConfigError, when called, if shapes do not match.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, Metric, Undefined
from framework_losses.losses import absolute_error, squared_error
from framework_losses.shapes import aligned, position_weights

REAL = ("real",)


def mse() -> Metric:
    """Mean squared error over all numbers, in squared units of the targets.

    Outputs and targets are real, [B, ...] of one shape; outputs [B, 1] go with targets [B] too.
    """
    return Metric(squared_error().values, _mean, False, REAL)


def rmse() -> Metric:
    """Root of the mean squared error, in units of the targets: the root of one mean over all numbers.

    Shapes are those of mse.
    """
    return Metric(squared_error().values, lambda total, count: math.sqrt(_mean(total, count)), False, REAL)


def mae() -> Metric:
    """Mean absolute error over all numbers, in units of the targets; shapes are those of mse."""
    return Metric(absolute_error().values, _mean, False, REAL)


def r2() -> Metric:
    """Coefficient of determination: 1 less the share of the targets' variance that the errors have. No units.

    Shapes are those of mse.

    Of several outputs it is the mean of each one's, as scikit-learn's `r2_score`; where the targets of one are all
    equal, it is 1 for no error and else 0, as there. Outputs and targets of all examples are kept in memory, in
    evaluations alone, since a variance told from sums would lose its digits where the mean is large.
    """

    def values(outputs: Array, batch: Batch) -> Array:
        """Return [B, P, 3]: prediction, target and weight."""
        predicted, targets = aligned(outputs, batch["targets"])
        shares = position_weights(predicted.shape, batch)
        shares = jnp.ones_like(predicted) if shares is None else shares
        return jnp.stack([part.reshape(len(part), -1) for part in (predicted, targets, shares)], axis=-1)

    def result(total: Any, count: Any) -> float:
        predicted, target, share = np.moveaxis(np.asarray(total, np.float64), -1, 0)
        weights = share * np.asarray(count)[:, None]
        each = zip(predicted.T, target.T, weights.T, strict=True)
        shares = [_determined(p[w > 0], t[w > 0], w[w > 0]) for p, t, w in each]
        return next((each for each in shares if isinstance(each, Undefined)), float(np.mean(shares)))

    return Metric(values, result, True, REAL, collect=True)


def _determined(predicted: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    if len(target) < 2:
        return Undefined("fewer than two targets count, and these have no variance")
    errors = (weights * (target - predicted) ** 2).sum()
    spread = (weights * (target - np.average(target, weights=weights)) ** 2).sum()
    return float(1 - errors / spread) if spread != 0 else float(errors == 0)


def _mean(total: Any, count: float) -> float:
    return float(total / count)
