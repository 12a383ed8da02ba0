"""A layer with state: something that belongs to it and is not trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framework.api import Array, Model, Shape
from framework.errors import ConfigError


def Fourier(features: int = 32, scale: float = 1.0) -> Model:
    """Cosines and sines of random projections of the last axis: [..., D] to [..., 2 · features].

    Rahimi and Recht 2007, "Random Features for Large-Scale Kernel Machines".

    Args:
      features: number of projections.
      scale: their standard deviation, in cycles per unit of the inputs; larger lets the next layer tell closer points
        apart.

    Raises: ConfigError if features or scale is not positive.
    """
    if features < 1 or scale <= 0:
        raise ConfigError(f"Fourier expects features and scale above 0, found {features} and {scale}.")

    def init(key: Array, in_shape: Shape) -> tuple[Shape, tuple[()], Array]:
        projections = 2 * jnp.pi * scale * jax.random.normal(key, (in_shape[-1], features))
        return (*in_shape[:-1], 2 * features), (), projections

    def apply(
        params: tuple[()], state: Array, inputs: Array, *, key: Array | None = None, train: bool = False
    ) -> tuple[Array, Array]:
        angles = inputs @ state
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1), state

    return Model(init, apply)
