"""Mean and variance over a batch, also if it is cut into parts."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from framework.api import Array

BATCH_AXIS = "batch"  # name of the axis that strategies map over parts of a batch


class Moments(NamedTuple):
    """Mean and biased variance of each feature."""

    mean: Array
    variance: Array


def batch_moments(values: Array, axes: tuple[int, ...]) -> Moments:
    """Compute the moments over some axes, and over all parts of the batch if the axis "batch" is mapped.

    Args:
      values: array of any shape; parts of a batch have equal size.
      axes: axes to reduce.
    """
    mean = _over_parts(values.mean(axes))
    deviations = values - jnp.expand_dims(mean, axes)
    return Moments(mean, _over_parts((deviations * deviations).mean(axes)))


def _over_parts(mean: Array) -> Array:
    try:
        lax.axis_size(BATCH_AXIS)
    except NameError:  # no such axis is mapped: the batch is whole
        return mean
    return lax.pmean(mean, BATCH_AXIS)
