"""Environments against their published equations in NumPy, and against Gymnasium and gymnax where these are there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework import testing
from framework.api import Environment
from framework.contracts.environment import as_environment
from framework.errors import ConfigError, DataError
from framework_environments.cartpole import CartPole, cartpole
from framework_environments.episodes import episodes
from framework_environments.grid_world import ROOMS, Places, grid_world
from framework_environments.gymnax import gymnax
from framework_environments.pendulum import Pendulum, pendulum

KEYS = jax.random.split(jax.random.key(0), 200)


def cartpole_by_hand(state, action):
    """The equations of Florian 2007, with Gymnasium's numbers, in float64: the state after a step, and its end."""
    position, velocity, angle, turning = map(float, state)
    push = 10.0 if action == 1 else -10.0
    mass, moment = 1.1, 0.05
    common = (push + moment * turning**2 * np.sin(angle)) / mass
    faster = 9.8 * np.sin(angle) - np.cos(angle) * common
    faster /= 0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / mass)
    speedup = common - moment * faster * np.cos(angle) / mass
    after = position + 0.02 * velocity, velocity + 0.02 * speedup, angle + 0.02 * turning, turning + 0.02 * faster
    return after, 1.0, abs(after[0]) > 2.4 or abs(after[2]) > 12 * 2 * np.pi / 360


def pendulum_by_hand(state, torque):
    """The equations of Gymnasium's Pendulum-v1 in float64."""
    angle, turning = map(float, state)
    torque = float(np.clip(torque, -2, 2))
    cost = ((angle + np.pi) % (2 * np.pi) - np.pi) ** 2 + 0.1 * turning**2 + 0.001 * torque**2
    turning = np.clip(turning + (15 * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
    return (angle + turning * 0.05, turning), -cost, False


def states_of(form, scales):
    return [form(*(np.float32(scales) * row)) for row in np.random.default_rng(0).uniform(-1, 1, (200, len(scales)))]


def test_cartpole_follows_the_published_equations():
    environment = cartpole()
    step = jax.jit(environment.step)
    states = states_of(CartPole, [2.5, 3, 0.22, 3])
    ends = set()
    for index, state in enumerate(states):
        after, reward, end = cartpole_by_hand(state, index % 2)
        found = step(KEYS[0], CartPole(*map(jnp.asarray, state)), jnp.int32(index % 2))
        np.testing.assert_allclose(found[0], after, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[1], jnp.stack(found[0]))
        assert (found[2], found[3]) == (reward, end)
        ends.add(end)
    assert ends == {True, False}
    starts = np.asarray(jax.vmap(environment.reset)(KEYS)[1])
    assert starts.shape == (200, 4) and -0.05 <= starts.min() < -0.04 and 0.04 < starts.max() <= 0.05


def test_pendulum_follows_the_published_equations():
    environment = pendulum()
    step = jax.jit(environment.step)
    for index, state in enumerate(states_of(Pendulum, [9, 8])):
        torque = np.float32(index / 50 - 2.5)
        after, reward, _ = pendulum_by_hand(state, torque)
        found, observation, earned, end = step(KEYS[0], Pendulum(*map(jnp.asarray, state)), torque[None])
        angle, turning = after
        np.testing.assert_allclose(observation, [np.cos(angle), np.sin(angle), turning], atol=2e-5)
        np.testing.assert_allclose(found.turning, turning, atol=2e-5)
        np.testing.assert_allclose(earned, reward, rtol=1e-4, atol=1e-5)
        assert not end
    starts = jax.vmap(environment.reset)(KEYS)[0]
    assert 3 < np.abs(starts.angle).max() <= np.pi and 0.9 < np.abs(starts.turning).max() <= 1


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_an_episode_is_that_of_gymnasium(id):
    gymnasium = pytest.importorskip("gymnasium", reason="compares with Gymnasium's own dynamics, which need gymnasium")
    environment, form = (cartpole(), CartPole) if id == "CartPole-v1" else (pendulum(), Pendulum)
    world = gymnasium.make(id).unwrapped
    world.reset(seed=0)
    state = form(*(jnp.float32(part) for part in world.state))
    step = jax.jit(environment.step)
    random = np.random.default_rng(0)
    for _ in range(30):
        action = random.integers(2) if id == "CartPole-v1" else random.uniform(-2.5, 2.5, 1).astype(np.float32)
        observed, reward, terminated, *_ = world.step(action)
        state, observation, earned, end = step(KEYS[0], state, jnp.asarray(action, environment.action.dtype))
        np.testing.assert_allclose(observation, observed, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(earned, reward, rtol=1e-3, atol=1e-3)
        assert end == terminated
        if terminated:
            break


def test_the_grid_has_walls_a_goal_and_slips():
    environment = grid_world()
    cells = [(row, column) for row, line in enumerate(ROOMS.split()) for column, cell in enumerate(line) if cell == "."]
    assert len(cells) == 104  # as in the paper
    moves = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    agents, goal = np.array(cells, np.int32), np.array([1, 1], np.int32)
    step = jax.jit(jax.vmap(environment.step, in_axes=(None, Places(0, None), None)))
    for action, move in enumerate(moves):
        state, observation, reward, end = step(KEYS[0], Places(agents, goal), jnp.int32(action))
        ahead = [(row + move[0], column + move[1]) for row, column in cells]
        wanted = np.array([after if after in cells else before for before, after in zip(cells, ahead, strict=True)])
        np.testing.assert_array_equal(state.agent, wanted)
        np.testing.assert_array_equal(end, (wanted == goal).all(axis=1))
        np.testing.assert_array_equal(reward, np.float32(end))
        np.testing.assert_allclose(observation.agent, wanted / 6 - 1, atol=1e-6)
    starts, _ = jax.vmap(environment.reset)(KEYS)
    assert {*map(tuple, np.asarray(starts.agent).tolist())} <= {*cells}
    assert not (starts.agent == starts.goal).all(axis=1).any()
    slippery = jax.vmap(grid_world(slip=0.5).step, in_axes=(0, None, None))
    state, *_ = slippery(KEYS, Places(np.array([3, 3], np.int32), goal), jnp.int32(0))
    up = (np.asarray(state.agent) == [2, 3]).all(axis=1).mean()
    assert 0.5 < up < 0.75  # 0.5 + 0.5 / 4


def test_gymnax_is_adapted():
    pytest.importorskip("gymnax", reason="adapts environments of gymnax, which need gymnax")
    theirs, ours = gymnax(id="CartPole-v1"), cartpole()
    assert (theirs.actions, theirs.limit) == (ours.actions, ours.limit)
    state, observation = theirs.reset(KEYS[0])
    mine = CartPole(*observation)
    for time in range(40):
        state, observation, reward, end = theirs.step(KEYS[0], state, jnp.int32(time % 2))
        mine, expected, earned, over = ours.step(KEYS[0], mine, jnp.int32(time % 2))
        np.testing.assert_allclose(observation, expected, rtol=1e-4, atol=1e-5)
        assert (reward, end) == (earned, over)
        if over:
            break
    swing = gymnax(id="Pendulum-v1")
    assert swing.action.shape == (1,) and swing.limit == 200
    with pytest.raises(ConfigError, match="no 'CartPole'"):
        gymnax(id="CartPole")


@pytest.mark.parametrize("make", [cartpole, pendulum, grid_world])
def test_an_environment_keeps_its_contract(make):
    assert as_environment(make()).limit == make(limit=make().limit).limit
    with pytest.raises(ConfigError, match="limit is 0"):
        make(limit=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": 2}, "expected actions to be Discrete or Box, found int"),
        ({"step": lambda key, state, action: (state, state, 1, True)}, "step returns .*, expected"),
        ({"step": lambda key, state, action: 1 / 0}, "fails: ZeroDivisionError"),
    ],
)
def test_another_step_is_refused_when_it_is_built(changes, message):
    environment: Environment = cartpole()._replace(**changes)
    with pytest.raises(TypeError, match=message):
        as_environment(environment)


def test_episodes_are_counted():
    data = episodes(batch_size=4, episodes=5, eval_batch_size=3)
    batch = next(data.train(0))
    testing.assert_same_bits(batch, {"inputs": np.arange(4, dtype=np.int32)})
    numbers = [batch["inputs"][batch["weights"] > 0].tolist() for batch in data.eval("episodes")]
    assert numbers == [[0, 1, 2], [3, 4]]
    for wrong in ({"batch_size": 0}, {"episodes": 0}, {"eval_batch_size": 0}):
        with pytest.raises((ConfigError, DataError), match="expected at least 1"):
            episodes(**wrong)
