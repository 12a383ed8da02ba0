"""Grid world: find the way to a goal through four rooms."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Discrete, Environment
from framework.errors import ConfigError

ROOMS = """
#############
#.....#.....#
#.....#.....#
#...........#
#.....#.....#
#.....#.....#
##.####.....#
#.....###.###
#.....#.....#
#.....#.....#
#...........#
#.....#.....#
#############
"""
"""Walls (#) and free cells (.) of the four rooms."""

MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]], np.int32)
"""Rows and columns that the actions 0 to 3 go: up, right, down, left."""


class Places(NamedTuple):
    """Two places of a grid, as int32 [2] in the state, and as float32 [2] from -1 to 1 in an observation."""

    agent: Array  # row and column
    goal: Array


def grid_world(slip: float = 0.0, limit: int = 100) -> Environment:
    """Find the way to a goal through four rooms: actions 0 to 3 go up, right, down and left by one cell.

    An observation is the place of the agent and that of the goal, each float32 [2]: row and column, from -1 to 1. Both
    are drawn anew for each episode, from all free cells. A step into a wall stays. The reward is 1 at the goal, which
    terminates the episode, and else 0. Source of the rooms: Sutton, Precup and Singh 1999, "Between MDPs and
    semi-MDPs".

    Args:
      slip: share of steps that go in a random direction instead.
      limit: steps after which an episode is cut off. The longest way has 20.

    Raises: ConfigError if the limit is below 1.
    """
    if limit < 1:
        raise ConfigError(f"limit is {limit}, expected at least 1 step.")
    lines = ROOMS.split()
    free = np.array([[cell == "." for cell in line] for line in lines])
    cells = np.argwhere(free).astype(np.int32)

    def observed(state: Places) -> Places:
        return Places(*(2 * place.astype(jnp.float32) / (len(lines) - 1) - 1 for place in state))

    def reset(key: Array) -> tuple[Places, Places]:
        first, second = jax.random.choice(key, len(cells), (2,), replace=False)
        state = Places(jnp.asarray(cells)[first], jnp.asarray(cells)[second])
        return state, observed(state)

    def step(key: Array, state: Places, action: Array) -> tuple[Places, Places, Array, Array]:
        slips, direction = jax.random.split(key)
        action = jnp.where(jax.random.bernoulli(slips, slip), jax.random.randint(direction, (), 0, 4), action)
        ahead = state.agent + jnp.asarray(MOVES)[action]
        after = state._replace(agent=jnp.where(jnp.asarray(free)[ahead[0], ahead[1]], ahead, state.agent))
        terminated = (after.agent == after.goal).all()
        return after, observed(after), terminated.astype(jnp.float32), terminated

    return Environment(reset, step, Discrete(len(MOVES)), limit)
