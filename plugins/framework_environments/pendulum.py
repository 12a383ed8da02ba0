"""Pendulum: swing a pendulum up and hold it there with a weak motor."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Box, Environment
from framework.errors import ConfigError

SECONDS = 0.05
"""Time between two states."""

FASTEST = 8.0
"""Largest angular velocity in rad / s."""

STRONGEST = 2.0
"""Largest torque in N m."""


class Pendulum(NamedTuple):
    """The state of a pendulum, each float32 []."""

    angle: Array  # rad, from upright
    turning: Array  # rad / s


def pendulum(gravity: float = 10.0, limit: int = 200) -> Environment:
    """Swing a pendulum up and hold it there: one action, a torque from -2 to 2 N m, float32 [1].

    Observations are float32 [3]: cosine and sine of the angle from upright, and the angular velocity. The reward is
    -(angle² + 0.1 velocity² + 0.001 torque²), at most 0. Nothing terminates an episode. Mass and length are 1. The
    equations are those of Gymnasium's Pendulum-v1.

    Args:
      gravity: m / s²; more than the motor can lift at once.
      limit: steps after which an episode is cut off.

    Raises: ConfigError if the limit is below 1.
    """
    if limit < 1:
        raise ConfigError(f"limit is {limit}, expected at least 1 step.")

    def reset(key: Array) -> tuple[Pendulum, Array]:
        angle, turning = jax.random.uniform(key, (2,), minval=-1.0) * jnp.array([jnp.pi, 1.0])
        state = Pendulum(angle, turning)
        return state, _observed(state)

    def step(key: Array, state: Pendulum, action: Array) -> tuple[Pendulum, Array, Array, Array]:
        torque = jnp.clip(action[0], -STRONGEST, STRONGEST)
        angle = (state.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = angle**2 + 0.1 * state.turning**2 + 0.001 * torque**2
        faster = 1.5 * gravity * jnp.sin(angle) + 3 * torque
        turning = jnp.clip(state.turning + SECONDS * faster, -FASTEST, FASTEST)
        after = Pendulum(angle + SECONDS * turning, turning)
        return after, _observed(after), -cost, jnp.array(False)

    torques = np.full(1, STRONGEST, np.float32)
    return Environment(reset, step, Box(-torques, torques), limit)


def _observed(state: Pendulum) -> Array:
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.turning])
