"""Tasks that learn by acting: alike under every strategy, however they are cut or killed; and they learn."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import framework
from framework import testing
from framework.api import Box, Discrete, Environment
from framework.errors import ConfigError
from framework_environments.episodes import episodes
from framework_stax.models import mlp
from framework_tasks.policy_gradient import policy_gradient
from framework_tasks.ppo import ppo

TINY = [
    "data.batch_size=4",
    "data.episodes=3",
    "data.eval_batch_size=2",
    "environment.limit=12",
    "task.steps=8",
    "train.steps=4",
    "train.log_every=1",
    "train.eval_every=2",
    "train.checkpoint_every=2",
]
SMALL = ["policy.hidden=[8]", "value.hidden=[8]"]
PAIRS = ["model@policy=serial", "model@value=serial"]
PAIRS += ["policy.layers=[FanInConcat, {Dense: 8}, Tanh, {Dense: 4}]", "value.layers=[FanInConcat, {Dense: 1}]"]
PPO = ["task=ppo", "task.epochs=2", "task.minibatches=2"]
ROWS = {
    "ppo": [*PPO, *SMALL],
    "policy_gradient": ["task=policy_gradient", *SMALL],
    "real actions": [*PPO, *SMALL, "environment=pendulum"],
    "pairs of places": [*PPO, *PAIRS, "environment=grid_world", "environment.slip=0.5"],
}


def train(folder, *words):
    return framework.run([f"run.root={folder}", "callbacks=[checkpoint]", *TINY, *words])


SLOW = pytest.mark.slow
LATER = [pytest.param(name, marks=SLOW) for name in ROWS if name != "ppo"]


@pytest.fixture(scope="module", params=["ppo", *LATER])
def row(request, tmp_path_factory):
    """Words of a task, and its run on one device, as chunks of steps."""
    words = ROWS[request.param]
    return words, train(tmp_path_factory.mktemp("rl"), *words)


def assert_alike(run, reference, tags=None):
    for tag in sorted({tag for record in testing.records(reference) for tag in record}):
        named = tag if tags is None or tag == "step" else tags(tag)
        found, wanted = testing.series(run, named), testing.series(reference, tag)
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5, err_msg=tag)


def test_an_evaluation_and_a_step_log_what_they_promise(row):
    _, run = row
    assert {"eval/return", "eval/length", "eval/loss", "train/loss", "train/entropy"} <= set(run.metrics)
    lengths = testing.series(run, "eval/length")
    assert (lengths <= 12).all() and (lengths >= 1).all()
    np.testing.assert_array_equal(testing.series(run, "eval/loss"), -testing.series(run, "eval/return"))


@pytest.mark.parametrize("strategy", ["pmap", "sharded", pytest.param("eager", marks=SLOW)])
def test_every_strategy_agrees(row, strategy, tmp_path):
    assert_alike(train(tmp_path, *row[0], f"strategy={strategy}"), row[1])


def test_members_are_runs_of_their_own(row, tmp_path):
    together = train(tmp_path, *row[0], "strategy=vmapped", "strategy.members={seed: [1, 0]}")
    assert_alike(together, row[1], lambda tag: f"{tag}/1")
    trained = framework.load(together.directory, member=1)
    testing.assert_same_bits(
        jax.tree.leaves(trained.params), [leaf[1] for leaf in jax.tree.leaves(together.state.params)]
    )


def test_single_steps_and_a_resumed_run_have_the_same_bits(row, tmp_path):
    words, whole = row
    half = train(tmp_path, *words, "train.steps_per_call=1", "train.steps=2")
    assert half.state.step == 2
    resumed = framework.resume(half.directory, ["train.steps=4", "train.steps_per_call=3"])
    testing.assert_same_bits(resumed.state, whole.state)
    assert testing.records(resumed) == testing.records(whole)


def test_a_trained_policy_maps_observations_to_its_outputs(row):
    words, run = row
    trained = framework.load(run.directory)
    observations = jax.tree.map(lambda leaf: np.zeros((5, *leaf.shape[1:]), leaf.dtype), trained.inputs)
    outputs = np.asarray(trained(observations))
    assert outputs.shape == (5, 4 if "environment=grid_world" in words else 2)
    np.testing.assert_allclose(trained.policy(observations), outputs, rtol=1e-5)
    assert trained.value(observations).shape == (5, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["policy.classes=3"], "policy.* are .*, expected .*policy.classes=2"),
        (["value.classes=2"], "value.* are .*, expected .*value.classes=1"),
        (["task.minibatches=3"], "minibatches.* do not divide the 8 steps"),
        (["task.discount=1.5"], "discount is 1.5, expected 0 to 1"),
        (["train.accumulate=2"], "train.accumulate"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        train(tmp_path, *PPO, *SMALL, *words)
    testing.message(caught)


def signs(limit=3):
    """Tell whether the observation is above 0: reward 1 for the right choice."""

    def reset(key):
        seen = jax.random.normal(key, (1,))
        return seen, seen

    def step(key, state, action):
        after, _ = reset(key)
        return after, after, ((state[0] > 0) == (action == 1)).astype(jnp.float32), jnp.array(False)

    return Environment(reset, step, Discrete(2), limit)


def copies(limit=3):
    """Name half of the observation, from bounds of -2 and 2: the reward is the negative squared distance."""
    environment = signs(limit)

    def step(key, state, action):
        after, _ = environment.reset(key)
        return after, after, -((action[0] - state[0] / 2) ** 2), jnp.array(False)

    bounds = np.full(1, 2, np.float32)
    return environment._replace(step=step, actions=Box(-bounds, bounds))


@pytest.mark.parametrize(("make", "least"), [(signs, 2.8), (copies, -0.5)])
@pytest.mark.parametrize("task", [ppo, policy_gradient])
def test_a_simple_skill_is_learnt(task, make, least):
    made = task(mlp((16,), 2, "tanh"), mlp((16,), 1, "tanh"), make(), optax.adam(0.02), steps=16)
    data = episodes(batch_size=16, episodes=50, eval_batch_size=50)
    state, batch = made.init(jax.random.key(0), data.spec), next(data.train(0))
    step = jax.jit(lambda state: jax.lax.fori_loop(0, 60, lambda _, state: made.train_step(state, batch)[0], state))
    test = jax.jit(made.eval_step)
    (before,), (after,) = ([test(each, next(data.eval("episodes")))["return"]] for each in (state, step(state)))
    assert before.total / before.count < least < after.total / after.count


def test_one_pass_of_ppo_is_a_policy_gradient():
    make = partial(ppo, epochs=1, minibatches=1)
    data = episodes(batch_size=8)
    after = []
    for task in (make, policy_gradient):
        made = task(mlp((8,), 2), mlp((8,), 1), signs(), optax.sgd(0.1), steps=8, decay=0.9, entropy_weight=0.01)
        state = made.init(jax.random.key(0), data.spec)
        after.append(jax.jit(made.train_step)(state, next(data.train(0)))[0])
    for one, other in zip(*map(jax.tree.leaves, (after[0].params, after[1].params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
