"""Calibration of a classifier: whether it is right as often as it says."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Probe, Problem, TrainState
from framework.errors import ConfigError


def calibration(bins: int = 15) -> Probe:
    """The expected calibration error: the mean distance of confidence and accuracy over bins of confidence.

    Outputs are logits [B, ..., K], targets class numbers [B, ...]. The confidence is the largest probability. Source:
    Guo et al. 2017, arXiv:1706.04599, equation 3.

    Args:
      bins: of equal width, over confidences from 0 to 1.

    Raises: ConfigError if bins is below 1, or outputs and targets are not as above.
    """
    if bins < 1:
        raise ConfigError(f"bins is {bins}, expected at least 1.")

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        targets = batch["targets"]
        logits = None if problem.predict is None else problem.predict(state.params, state, batch["inputs"])
        if not isinstance(logits, jax.Array) or logits.shape[:-1] != targets.shape or targets.dtype.kind not in "iu":
            raise ConfigError("calibration needs logits [B, ..., K] as outputs and class numbers [B, ...] as targets.")
        probabilities = jax.nn.softmax(logits.astype(jnp.float32)).reshape(-1, logits.shape[-1])
        confidence, right = probabilities.max(-1), probabilities.argmax(-1) == targets.ravel()
        place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
        excess = jnp.zeros(bins).at[place].add(right.astype(jnp.float32) - confidence)
        return {
            "error": jnp.abs(excess).sum() / confidence.size,
            "confidence": confidence.mean(),
            "accuracy": right.mean(dtype=jnp.float32),
        }

    return probe
