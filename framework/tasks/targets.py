"""Targets that a loss cannot take, found in examples that lie in memory before a run begins."""

from __future__ import annotations

from typing import Any

import numpy as np

from framework.contracts.components import Batch, TargetedLoss

TOLERANCE = 1e-3
"""Largest distance of a distribution's sum from 1: float16 probabilities of a thousand classes are within it."""


def outside(loss: TargetedLoss, examples: Batch, outputs: Any) -> tuple[int, str] | None:
    """Find the first example whose targets the loss cannot take.

    Args:
      loss: says what its targets are.
      examples: NumPy arrays [N, ...], "targets" among them; those of weight 0 may hold anything.
      outputs: shape of the model's outputs [B, ..., K], as `jax.ShapeDtypeStruct`.

    Returns: its row, from 0, and what was found and expected; None where all are sound, or shapes do not fit, which
      tracing the step tells better.
    """
    targets, shape = np.asarray(examples.get("targets")), getattr(outputs, "shape", None)
    if shape is None or targets.dtype.kind not in "biuf" or not len(targets):
        return None
    bad, expected = _judged(loss, targets, shape)
    weights = np.asarray(examples.get("weights", np.ones(len(targets))))
    if weights.ndim <= bad.ndim and weights.shape == bad.shape[: weights.ndim]:
        bad = bad & (weights != 0).reshape(*weights.shape, *[1] * (bad.ndim - weights.ndim))
    if not bad.any():
        return None
    place = tuple(int(index) for index in np.argwhere(bad)[0])
    position = f" at {list(place[1:])}" if place[1:] else ""
    return place[0], f"found the target {_shown(targets[place])}{position}, expected {expected}"


def _judged(loss: TargetedLoss, targets: np.ndarray, outputs: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Return which targets are out of range, [N, ...], and what was expected."""
    if loss.targets == "real":
        return ~np.isfinite(targets), "a finite number"
    if loss.targets == "binary":
        return ~((targets >= 0) & (targets <= 1)), "labels from 0 to 1"
    if targets.ndim == len(outputs):
        sums = np.sum(targets, axis=-1, dtype=np.float64)
        bad = (targets < 0).any(axis=-1) | ~(np.abs(sums - 1) <= TOLERANCE)
        return bad, f"a distribution over {outputs[-1]} classes, of numbers from 0 that sum to 1"
    also = "" if loss.ignore_index is None else f", or ignore_index, {loss.ignore_index}"
    bad = ~((targets >= 0) & (targets < outputs[-1]))
    bad = bad if loss.ignore_index is None else bad & (targets != loss.ignore_index)
    return bad, f"class numbers from 0 to {outputs[-1] - 1}{also}"


def _shown(value: Any) -> str:
    return f"{value.tolist()}"[:60]
