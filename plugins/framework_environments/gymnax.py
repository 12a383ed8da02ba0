"""Environments of the library gymnax, where it is installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Box, Discrete, Environment, PyTree
from framework.errors import ConfigError


def gymnax(id: str = "CartPole-v1") -> Environment:
    """One of gymnax's environments, with its own parameters and time limit. Lange 2022, github.com/RobertTLange/gymnax.

    Its own auto-reset and time limit are left out: the observation that a step led to is kept, and a time limit is no
    termination.

    Args:
      id: as in `gymnax.registered_envs`.

    Raises: ConfigError if gymnax from 1.0 is not installed, or knows no such environment, or its actions are neither
      numbers of choices nor real numbers between bounds.
    """
    try:
        library, spaces = import_module("gymnax"), import_module("gymnax.environments.spaces")
    except ImportError as error:
        raise ConfigError(f"gymnax cannot be imported ({error}); pip install 'gymnax>=1.0'.") from error
    if id not in library.registered_envs:
        raise ConfigError(f"id: gymnax has no '{id}'; it has {', '.join(library.registered_envs)}.")
    world, params = library.make(id)
    space = world.action_space(params)
    if not isinstance(space, spaces.Discrete | spaces.Box):
        raise ConfigError(f"id: '{id}' has actions of {type(space).__name__}, expected Discrete or Box.")

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            observation, state = world.reset_env(key, params)
        return jax.tree.map(jnp.asarray, state), observation  # Python's numbers too have a dtype that each step keeps

    def step(key: Array, state: PyTree, action: Array) -> tuple[PyTree, PyTree, Array, Array]:
        with jax.numpy_dtype_promotion("standard"):
            observation, after, reward, terminated, _ = world.step_env(key, state, action, params)
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        return after, observation, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, jnp.bool_)

    actions = Discrete(int(space.n)) if isinstance(space, spaces.Discrete) else _box(space)
    return Environment(reset, step, actions, int(params.max_steps_in_episode))


def _box(space: Any) -> Box:
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), space.shape) for bound in (space.low, space.high))
    return Box(low, high)
