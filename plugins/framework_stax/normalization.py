"""Normalization of each example on its own."""

from __future__ import annotations

import jax.numpy as jnp

from framework.api import Array, Model, Shape, as_model
from framework.errors import ConfigError
from framework_stax.layers import Affine
from framework_stax.smooth import single, standardize


def LayerNorm(epsilon: float = 1e-5, center: bool = True, scale: bool = True) -> Model:
    """Layer normalization: shift and scale the last axis of [..., F] to mean 0 and variance 1, then by learned numbers.

    Moments of bfloat16 and float16 inputs are computed in float32. On a CPU the derivative is written by hand
    (`framework_stax.smooth`). Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    Args:
      epsilon: number added to the variance, which equal features have none of; 1e-5 as for BatchNorm.
      center: add a learned beta, at first 0.
      scale: multiply by a learned gamma, at first 1.

    Raises: ConfigError if epsilon is not positive.
    """
    if not epsilon > 0:
        raise ConfigError(f"LayerNorm expects a positive epsilon, found {epsilon}.")

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Affine]:
        features = in_shape[-1:]
        return in_shape, Affine(jnp.zeros(features) if center else (), jnp.ones(features) if scale else ())

    def apply(params: Affine, inputs: Array) -> Array:
        values = standardize(inputs.astype(single(inputs.dtype)), epsilon)
        values = values * params.gamma.astype(values.dtype) if scale else values
        values = values + params.beta.astype(values.dtype) if center else values
        return values.astype(inputs.dtype)

    return as_model((init, apply), "LayerNorm")
