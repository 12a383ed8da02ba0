"""Mean and variance over a batch, also over one that is cut in parts."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from framework.api import Array

BATCH_AXIS = "batch"  # what strategies call the axis that they map over parts of a batch


class Moments(NamedTuple):
    """Mean and biased variance of each feature."""

    mean: Array
    variance: Array


def batch_moments(values: Array, axes: tuple[int, ...]) -> Moments:
    """Take the moments over some axes, and over all parts of the batch where the axis "batch" is mapped.

    Args:
      values: any shape; the parts of a batch are of equal size.
      axes: the axes that are reduced.
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
