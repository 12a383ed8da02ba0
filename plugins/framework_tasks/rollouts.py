"""Roll-outs: a policy plays environments side by side, for a number of steps or to the end of an episode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from framework.api import Array, Environment, PyTree

SMALL = 1024
"""Largest beginning of an episode in bytes, state and observation, of which a roll-out holds one for each step."""


class Player(NamedTuple):
    """Player of environments: the chance in its actions, and the actions.

    Attributes:
      draw: `draw(key) -> noise`, the chance in one action. All of a roll-out are drawn at once, which is much quicker
        than a few numbers at each step.
      act: `act(noise, observations) -> (actions, log_probabilities)`, of several environments: a leading axis [N] each.
    """

    draw: Callable[[Array], PyTree]
    act: Callable[[PyTree, PyTree], tuple[Array, Array]]


class Playing(NamedTuple):
    """An environment within an episode; of several, each leaf is [N, ...]."""

    state: PyTree
    observation: PyTree
    length: Array  # int32 [], steps of the episode so far
    score: Array  # float32 [], sum of its rewards so far


class Transition(NamedTuple):
    """One step of an environment; of a roll-out, each leaf is [N, T, ...]."""

    observation: PyTree
    action: Array
    log_probability: Array  # float32 [], of the action, when it was chosen
    reward: Array  # float32 []
    terminated: Array  # bool [], the episode came to its end, after which there is nothing to gain
    truncated: Array  # bool [], the episode was cut off by the time limit
    after: PyTree  # the observation that the step led to, before a reset
    length: Array  # int32 [], steps of the episode with this one
    score: Array  # float32 [], sum of its rewards with this one


def begin(environment: Environment, key: Array) -> Playing:
    """Begin an episode."""
    state, observation = environment.reset(key)
    return Playing(state, observation, jnp.zeros([], jnp.int32), jnp.zeros([]))


def step(
    environment: Environment, key: Array, playing: Playing, action: Array, log_probability: Array, anew: Playing
) -> tuple[Playing, Transition]:
    """Make one step of one environment, and go on with the episode `anew` if this one is over."""
    gone, reward, terminated = _move(environment, key, playing, action)
    truncated = (gone.length >= environment.limit) & ~terminated
    before, after = playing.observation, gone.observation
    made = Transition(before, action, log_probability, reward, terminated, truncated, after, gone.length, gone.score)
    return _select(terminated | truncated, anew, gone), made


def _move(environment: Environment, key: Array, playing: Playing, action: Array) -> tuple[Playing, Array, Array]:
    """Return the environment after a step, its reward, and True if it terminated."""
    state, observation, reward, terminated = environment.step(key, playing.state, action)
    return Playing(state, observation, playing.length + 1, playing.score + reward), reward, terminated


def _select(condition: Array, yes: Playing, no: Playing) -> Playing:
    def chosen(one: Array, other: Array) -> Array:
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):  # JAX's check of key reuse takes these for used ones
            data = jnp.where(condition, jax.random.key_data(one), jax.random.key_data(other))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(one))
        return jnp.where(condition, one, other)

    return jax.tree.map(chosen, yes, no)


def roll_out(
    environment: Environment, player: Player, playing: Playing, keys: Array, steps: int
) -> tuple[Playing, Transition]:
    """Play N environments for a number of steps T.

    Args:
      playing: of each environment, [N, ...].
      keys: of each environment, [N]; the numbers of one do not depend on which others there are.

    Returns: the environments after the last step, and transitions [N, T, ...].
    """

    shapes = jax.tree.leaves(jax.eval_shape(lambda: begin(environment, jax.random.key(0))))
    ahead = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes) <= SMALL

    # JAX's check of key reuse takes keys whose axes are swapped for used ones, as `scan` under `vmap` swaps them.
    def chance(key: Array) -> tuple[PyTree, Array, PyTree]:
        draw, go = jax.random.split(key)
        move, anew = jax.random.split(go)
        episode = begin(environment, anew) if ahead else jax.random.key_data(anew)
        return player.draw(draw), jax.random.key_data(move), episode

    def advance(playing: Playing, chances: tuple[PyTree, Array, PyTree]) -> tuple[Playing, Transition]:
        wrapped = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(keys))
        noise, moves, anew = chances
        actions, log_probabilities = player.act(noise, playing.observation)
        episodes = anew if ahead else jax.vmap(partial(begin, environment))(wrapped(anew))
        return jax.vmap(partial(step, environment))(wrapped(moves), playing, actions, log_probabilities, episodes)

    each = jax.vmap(lambda key: jax.vmap(chance)(jax.random.split(key, steps)), out_axes=1)(keys)  # [T, N, ...]
    playing, made = jax.lax.scan(advance, playing, each)
    return playing, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), made)


def play(environment: Environment, player: Player, keys: Array) -> tuple[Array, Array]:
    """Play one episode to its end for each key.

    Args:
      keys: [N].

    Returns: the sum of the rewards of each, float32 [N], and its number of steps, int32 [N].
    """
    pairs = jax.vmap(jax.random.split)(keys)
    begins, moves = pairs[:, 0], pairs[:, 1]

    def advance(carry: tuple[Playing, Array]) -> tuple[Playing, Array]:
        playing, over = carry
        time = playing.length.max()
        each = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, time)))(moves)  # [N, 2]
        actions, _ = player.act(jax.vmap(player.draw)(each[:, 0]), playing.observation)
        gone, _, terminated = jax.vmap(partial(_move, environment))(each[:, 1], playing, actions)
        return jax.vmap(_select)(over, playing, gone), over | terminated | (gone.length >= environment.limit)

    start = jax.vmap(partial(begin, environment))(begins)
    end, _ = jax.lax.while_loop(lambda carry: ~carry[1].all(), advance, (start, jnp.zeros(len(keys), jnp.bool_)))
    return end.score, end.length


def advantages(made: Transition, values: Array, values_after: Array, discount: float, decay: float) -> Array:
    """Estimate by how much each action of one environment did better than expected, float32 [T].

    Generalized advantage estimation, Schulman et al. 2016, arXiv:1506.02438. After a termination there is nothing to
    gain. An episode that was cut off, by its time limit or by the end of the roll-out, would have gone on: the value of
    its last observation stands for the rest.

    Args:
      made: transitions [T, ...].
      values: of their observations, [T].
      values_after: of the observations that they led to, [T].
      discount: of rewards, for each step.
      decay: 1 takes whole returns, 0 one reward and the value after it: variance against bias.
    """
    surprise = made.reward + discount * jnp.where(made.terminated, 0, values_after) - values

    def back(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        surprise, over = now
        here = surprise + discount * decay * jnp.where(over, 0, later)
        return here, here

    return jax.lax.scan(back, jnp.zeros([]), (surprise, made.terminated | made.truncated), reverse=True)[1]
