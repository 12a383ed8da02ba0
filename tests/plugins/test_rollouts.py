"""Roll-outs against a plain loop over episodes, and advantages against their definition, which notices mistakes."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework import testing
from framework.api import Box, Discrete, Environment
from framework_environments.grid_world import grid_world
from framework_tasks.policies import policy_over
from framework_tasks.rollouts import SMALL, Player, advantages, begin, play, roll_out

COUNT, STEPS, DISCOUNT, DECAY = 6, 120, 0.9, 0.8
WORLD = grid_world(slip=0.3, limit=14)


def draw(key):
    """Draw a direction, which is never up."""
    return jax.random.randint(key, (), 1, 4)


def act(directions, observations):
    """Go there."""
    return directions, jnp.full(len(directions), -np.log(3), jnp.float32)


PLAYER = Player(draw, act)


@pytest.fixture(scope="module")
def rolled():
    starts = jax.vmap(partial(begin, WORLD))(jax.random.split(jax.random.key(1), COUNT))
    # Some begin beside their goal, so that episodes end in both ways.
    goals = starts.state.agent.at[:, 1].add(1)
    seen = starts.observation._replace(goal=2 * goals.astype(jnp.float32) / 12 - 1)
    starts = starts._replace(state=starts.state._replace(goal=goals), observation=seen)
    return starts, *jax.jit(partial(roll_out, WORLD, PLAYER, steps=STEPS))(
        starts, jax.random.split(jax.random.key(2), COUNT)
    )


def episodes_of(made):
    """Cut the roll-out of one environment [T, ...] into its episodes, the last of which may be incomplete."""
    ends = np.flatnonzero(made.terminated | made.truncated)
    bounds = [0, *(ends + 1), STEPS]
    spans = [slice(*span) for span in pairwise(bounds) if span[0] < span[1]]
    return [jax.tree.map(lambda leaf, span=span: np.asarray(leaf[span]), made) for span in spans]


def test_a_roll_out_is_one_episode_after_the_other(rolled):
    starts, ends, made = rolled
    assert made.terminated.any() and made.truncated.any() and not (made.terminated & made.truncated).any()
    for one in range(COUNT):
        own = jax.tree.map(lambda leaf, one=one: leaf[one], made)
        np.testing.assert_array_equal(own.observation.agent[0], starts.observation.agent[one])
        for episode in episodes_of(own):
            length = len(episode.reward)
            np.testing.assert_array_equal(episode.length, np.arange(1, length + 1))
            np.testing.assert_array_equal(episode.score, np.cumsum(episode.reward))
            assert length <= WORLD.limit and not (episode.terminated | episode.truncated)[:-1].any()
            assert episode.truncated[-1] == (length == WORLD.limit and not episode.terminated[-1])
            np.testing.assert_array_equal(episode.observation.agent[1:], episode.after.agent[:-1])
            assert np.ptp(episode.observation.goal, axis=0).max() < 1e-5  # drawn once for each episode
            moved = np.abs(episode.after.agent - episode.observation.agent).sum(axis=1) * 6
            assert set(np.round(moved)) <= {0, 1}
            reached = (episode.after.agent == episode.after.goal).all(axis=1)
            np.testing.assert_array_equal(reached, episode.terminated)
    np.testing.assert_array_equal(
        ends.length, np.where((made.terminated | made.truncated)[:, -1], 0, made.length[:, -1])
    )


def test_an_environment_plays_alike_whatever_stands_beside_it(rolled):
    starts, _, made = rolled
    keys = jax.random.split(jax.random.key(2), COUNT)
    part = jax.tree.map(lambda leaf: leaf[2:4], starts)
    _, again = jax.jit(partial(roll_out, WORLD, PLAYER, steps=STEPS))(part, keys[2:4])
    testing.assert_same_bits(again, jax.tree.map(lambda leaf: leaf[2:4], made))


def walk(size):
    """Walk by chance over a map of `size` numbers, drawn for each episode; the state holds a key of its own."""

    def reset(key):
        own, drawn = jax.random.split(key)
        ground = jax.random.normal(drawn, (size,))
        return (own, jnp.int32(0), ground), ground[:2]

    def step(key, state, action):
        own, now = jax.random.split(state[0])
        place = (state[1] + action + jax.random.randint(now, (), 0, 2)) % size
        return (own, place, state[2]), state[2][place] * jnp.ones(2), state[2][place], jax.random.bernoulli(key, 0.1)

    return Environment(reset, step, Discrete(4), limit=8)


@pytest.mark.parametrize("size", [6, 20_000])
def test_a_state_may_hold_keys_and_a_large_one_is_held_once(size):
    world, steps = walk(size), 40
    starts = jax.vmap(partial(begin, world))(jax.random.split(jax.random.key(1), 2))
    keys = jax.random.split(jax.random.key(2), 2)
    with jax.debug_key_reuse(True):
        compiled = jax.jit(partial(roll_out, world, PLAYER, steps=steps)).lower(starts, keys).compile()
        ends, made = compiled(starts, keys)
    if size > SMALL:
        assert compiled.memory_analysis().temp_size_in_bytes < steps * 2 * size
    assert made.terminated.any() and made.truncated.any()
    stepped, reset = jax.jit(world.step), jax.jit(partial(begin, world))
    for one in range(2):
        now = jax.tree.map(lambda leaf, one=one: leaf[one], starts)
        for time, key in enumerate(jax.random.split(keys[one], steps)):
            drawn, go = jax.random.split(key)
            move, anew = jax.random.split(go)
            state, observation, reward, terminated = stepped(move, now.state, draw(drawn))
            length, score = now.length + 1, now.score + reward
            # Compiled for many at once, a draw may differ in its last bit.
            np.testing.assert_allclose(made.observation[one, time], now.observation, rtol=1e-6)
            np.testing.assert_allclose(made.after[one, time], observation, rtol=1e-6)
            np.testing.assert_allclose(made.score[one, time], score, rtol=1e-6)
            over = terminated or length == world.limit
            assert (made.terminated | made.truncated)[one, time] == over
            now = (
                reset(anew) if over else now._replace(state=state, observation=observation, length=length, score=score)
            )
        own, place, ground = jax.tree.map(lambda leaf, one=one: leaf[one], ends.state)
        testing.assert_same_bits((own, place), now.state[:2])
        np.testing.assert_allclose(ground, now.state[2], rtol=1e-6)


def value_of(observation):
    """Value an observation by some function: any will do, but it must tell places apart."""
    return np.asarray(2 + observation.agent[..., 0] + 0.5 * observation.goal[..., 1], np.float32)


def by_definition(made):
    """Weigh the n-step advantages of each episode by (1 - λ) λ^(n-1), in float64: [T]."""
    found = []
    for episode in episodes_of(made):
        values, length = value_of(episode.observation).astype(np.float64), len(episode.reward)
        after = np.where(episode.terminated, 0, value_of(episode.after).astype(np.float64))
        for start in range(length):
            returns = []
            for n in range(1, length - start + 1):
                earned = sum(DISCOUNT**k * episode.reward[start + k] for k in range(n))
                returns.append(earned + DISCOUNT**n * after[start + n - 1] - values[start])
            weights = [(1 - DECAY) * DECAY**n for n in range(len(returns) - 1)] + [DECAY ** (len(returns) - 1)]
            found.append(np.dot(weights, returns))
    return np.array(found)


def estimated(made):
    return advantages(made, value_of(made.observation), value_of(made.after), DISCOUNT, DECAY)


def cut_means_nothing_to_come(made):
    """Take a time limit for a termination."""
    return estimated(made._replace(terminated=made.terminated | made.truncated))


def next_episode_stands_for_the_rest(made):
    """Take the value of the observation after the reset."""
    values = value_of(made.observation)
    after = np.append(values[1:], value_of(made.after)[-1])
    return advantages(made, values, after, DISCOUNT, DECAY)


def episodes_run_together(made):
    """Let what the next episode earns count."""
    return estimated(made._replace(truncated=np.zeros_like(made.truncated)))


def termination_is_worth_something(made):
    """Add the value of the terminal state."""
    over = made.terminated | made.truncated
    return estimated(made._replace(terminated=np.zeros_like(over), truncated=over))


def agrees(estimate, made):
    made = jax.tree.map(np.asarray, made)
    each = [jax.tree.map(lambda leaf, one=one: leaf[one], made) for one in range(COUNT)]
    return all(np.allclose(estimate(one), by_definition(one), rtol=1e-4, atol=1e-5) for one in each)


def test_advantages_are_those_of_the_definition(rolled):
    assert agrees(estimated, rolled[2])


@pytest.mark.parametrize(
    "wrong",
    [
        cut_means_nothing_to_come,
        next_episode_stands_for_the_rest,
        episodes_run_together,
        termination_is_worth_something,
    ],
)
def test_a_wrong_bootstrap_is_noticed(rolled, wrong):
    assert not agrees(wrong, rolled[2])


def test_an_episode_is_played_to_its_end():
    keys = jax.random.split(jax.random.key(3), 20)
    scores, lengths = jax.jit(partial(play, WORLD, PLAYER))(keys)
    assert set(np.asarray(scores)) <= {0.0, 1.0} and lengths.min() < WORLD.limit == lengths.max()
    np.testing.assert_array_equal(lengths[scores == 0], WORLD.limit)
    some, others = play(WORLD, PLAYER, keys[5:7])
    np.testing.assert_array_equal((some, others), (scores[5:7], lengths[5:7]))


def test_probabilities_are_those_of_the_distributions():
    random = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(0), 4000)
    logits = np.tile(np.float32([0.5, -1.0, 2.0]), (4000, 1))
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    choice = policy_over(Discrete(3))
    actions = np.asarray(choice.sample(jax.vmap(choice.draw)(keys), logits))
    np.testing.assert_allclose(np.bincount(actions) / 4000, shares, atol=0.03)
    np.testing.assert_allclose(choice.log_probability(logits, actions), np.log(shares)[actions], rtol=1e-5)
    np.testing.assert_allclose(choice.entropy(logits), -(shares * np.log(shares)).sum(), rtol=1e-5)
    assert set(np.asarray(choice.best(logits))) == {2}

    masked = jnp.where(jnp.array([True, False, True]), logits[:9], -jnp.inf)
    shares = np.exp([0.5, 2.0]) / np.exp([0.5, 2.0]).sum()
    assert not (choice.sample(jax.vmap(choice.draw)(keys[:9]), masked) == 1).any()
    np.testing.assert_allclose(choice.entropy(masked), -(shares * np.log(shares)).sum(), rtol=1e-5)
    slopes = jax.grad(
        lambda logits: (choice.entropy(logits) + choice.log_probability(logits, jnp.zeros(9, jnp.int32))).sum()
    )
    assert np.isfinite(slopes(masked)[:, [0, 2]]).all() and not slopes(masked)[:, 1].any()

    box = Box(np.float32([-2, 0]), np.float32([2, 10]))
    normal = policy_over(box)
    outputs = np.tile(np.float32([0.3, -0.2, -1.0, 0.1]), (4000, 1))
    actions = np.asarray(normal.sample(jax.vmap(normal.draw)(keys), outputs), np.float64)
    np.testing.assert_allclose(actions.mean(axis=0), [0.3, -0.2], atol=0.06)
    np.testing.assert_allclose(actions.std(axis=0), np.exp([-1.0, 0.1]), rtol=0.05)
    density = np.exp(-0.5 * ((actions - [0.3, -0.2]) / np.exp([-1.0, 0.1])) ** 2) / np.exp([-1.0, 0.1])
    expected = np.log(density / np.sqrt(2 * np.pi)).sum(axis=1)
    np.testing.assert_allclose(normal.log_probability(outputs, np.float32(actions)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(normal.entropy(outputs), -expected.mean(), atol=0.05)
    inside = random.uniform(-3, 3, (50, 2)).astype(np.float32)
    np.testing.assert_allclose(jax.vmap(normal.action)(inside), np.clip(inside, -1, 1) * [2, 5] + [0, 5], atol=1e-5)
