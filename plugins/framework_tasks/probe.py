"""Linear probe: how well a linear classifier tells classes from given features."""

from __future__ import annotations

import numpy as np

RIDGE = 0.01
"""Penalty of squared weights, for each example that the probe is fitted to."""


def probe(rows: np.ndarray, weights: np.ndarray) -> float:
    """Return the accuracy of a linear probe, from features with labels behind them [N, F + 1].

    Rows of weight 0 are left out.
    """
    rows = np.asarray(rows, np.float64)[np.asarray(weights) > 0]
    halves = rows[::2], rows[1::2]
    return float(np.concatenate([right(*pair) for pair in (halves, halves[::-1])]).mean())


def right(fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Fit a linear classifier to some rows, and say of others whether it is right.

    Args:
      fitted: features with labels behind them [N, F + 1].
      tested: the same of other examples [M, F + 1].

    Returns: bool [M].
    """
    features, labels = fitted[:, :-1], fitted[:, -1].astype(int)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    inputs = (features - mean) / deviation
    goals = np.eye(int(max(fitted[:, -1].max(), tested[:, -1].max())) + 1)[labels]
    squares = inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1])
    weights = np.linalg.solve(squares, inputs.T @ (goals - goals.mean(axis=0)))
    scores = (tested[:, :-1] - mean) / deviation @ weights + goals.mean(axis=0)
    return scores.argmax(axis=1) == tested[:, -1].astype(int)
