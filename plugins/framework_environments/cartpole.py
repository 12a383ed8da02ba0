"""CartPole: balance a pole on a cart by pushing the cart left or right."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from framework.api import Array, Discrete, Environment
from framework.errors import ConfigError

CART, POLE = 1.0, 0.1
"""Masses in kg."""

HALF_LENGTH = 0.5
"""Metres from the pole's joint to its middle."""

SECONDS = 0.02
"""Time between two states."""

FARTHEST, STEEPEST = 2.4, math.radians(12)
"""Distance from the middle in m, and angle from upright, beyond which the episode terminates."""


class CartPole(NamedTuple):
    """The state of a cart and its pole, each float32 []."""

    position: Array  # m, from the middle
    velocity: Array  # m / s
    angle: Array  # rad, from upright
    turning: Array  # rad / s


def cartpole(gravity: float = 9.8, force: float = 10.0, limit: int = 500) -> Environment:
    """Balance a pole on a cart: actions 0 (push left) and 1 (push right), reward 1 for each step.

    Observations are float32 [4]: position, velocity, angle, and angular velocity. An episode begins near upright, and
    terminates when the pole leans by more than 12 degrees or the cart is 2.4 m from the middle. The equations and
    numbers are those of Gymnasium's CartPole-v1: Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements
    that can solve difficult learning control problems"; Florian 2007, "Correct equations for the dynamics of the
    cart-pole system".

    Args:
      gravity: m / s².
      force: of a push, in N.
      limit: steps after which an episode is cut off, and so the largest sum of rewards.

    Raises: ConfigError if the limit is below 1.
    """
    if limit < 1:
        raise ConfigError(f"limit is {limit}, expected at least 1 step.")

    def reset(key: Array) -> tuple[CartPole, Array]:
        state = CartPole(*jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05))
        return state, jnp.stack(state)

    def step(key: Array, state: CartPole, action: Array) -> tuple[CartPole, Array, Array, Array]:
        _, velocity, angle, turning = state
        push = jnp.where(action == 1, force, -force)
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        common = (push + POLE * HALF_LENGTH * turning**2 * sine) / (CART + POLE)
        inertia = HALF_LENGTH * (4 / 3 - POLE * cosine**2 / (CART + POLE))
        faster = (gravity * sine - cosine * common) / inertia
        speedup = common - POLE * HALF_LENGTH * faster * cosine / (CART + POLE)
        changes = CartPole(velocity, speedup, turning, faster)
        after = CartPole(*(old + SECONDS * change for old, change in zip(state, changes, strict=True)))
        terminated = (jnp.abs(after.position) > FARTHEST) | (jnp.abs(after.angle) > STEEPEST)
        return after, jnp.stack(after), jnp.ones([]), terminated

    return Environment(reset, step, Discrete(2), limit)
