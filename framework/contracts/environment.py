"""Environments: the contract of a world that an agent acts in, written in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.contracts.components import Array
from framework.errors import PLUGIN_FAULTS, is_users, told
from framework.trees import PyTree, shapes_text


class Discrete(NamedTuple):
    """Actions 0 to size - 1, int32 []."""

    size: int


class Box(NamedTuple):
    """Real actions, float32 of the bounds' shape, such as [1]."""

    low: np.ndarray
    high: np.ndarray


class Environment(NamedTuple):
    """A Markov decision process as two pure functions of one environment, which callers map over several.

    A step never resets, and knows of no time limit. The end that `limit` makes is no terminal state: its value is not
    0, so that only the caller can make it, and must not take it for a termination. Pardo et al. 2018, arXiv:1712.00378.

    Attributes:
      reset: `reset(key) -> (state, observation)`, pytrees of arrays; those of an observation have no batch axis.
      step: `step(key, state, action) -> (state, observation, reward, terminated)`, where reward is float32 [], and
        terminated is bool [].
      actions: that `step` takes.
      limit: number of steps after which an episode is cut off, from 1.
    """

    reset: Callable[[Array], tuple[PyTree, PyTree]]
    step: Callable[[Array, PyTree, Array], tuple[PyTree, PyTree, Array, Array]]
    actions: Discrete | Box
    limit: int

    @property
    def observation(self) -> PyTree:
        """The shapes of one observation, as `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(lambda: self.reset(jax.random.key(0)))[1]

    @property
    def action(self) -> jax.ShapeDtypeStruct:
        """The shape of one action."""
        if isinstance(self.actions, Discrete):
            return jax.ShapeDtypeStruct((), jnp.int32)
        return jax.ShapeDtypeStruct(self.actions.low.shape, jnp.float32)


def as_environment(built: Any) -> Environment:
    """Return an environment whose step was traced, and keeps the shapes of its state and its observation.

    Raises: TypeError if it does not, or is no environment.
    """
    if not isinstance(built, Environment):
        raise TypeError(f"expected an Environment, found {type(built).__name__}")
    if not isinstance(built.actions, Discrete | Box):
        raise TypeError(f"expected actions to be Discrete or Box, found {type(built.actions).__name__}")
    if isinstance(built.limit, bool) or not isinstance(built.limit, int) or built.limit < 1:
        raise TypeError(f"expected limit to be an integer of at least 1, found {built.limit!r}")
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        state, observation = jax.eval_shape(built.reset, key)
        found = tuple(jax.eval_shape(built.step, key, state, built.action))
    except PLUGIN_FAULTS as error:
        if is_users(error):
            raise
        raise TypeError(f"its reset or step fails: {told(error)}") from error
    scalars = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.bool_))
    expected = (state, observation, *scalars)
    if shapes_text(found) != shapes_text(expected):
        raise TypeError(f"step returns {shapes_text(found)}, expected {shapes_text(expected)}")
    return built
