"""Tasks that learn by acting: what they log, load and refuse, and that they learn; `test_tasks` has the rest."""

from __future__ import annotations

import json
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
from framework_environments.grid_world import Places
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
PPO = ["task=ppo", "task.epochs=2", "task.minibatches=2"]
PAIRS = ["model@policy=serial", "model@value=serial"]
PAIRS += ["policy.layers=[FanInConcat, {Dense: 8}, Tanh, {Dense: 4}]", "value.layers=[FanInConcat, {Dense: 1}]"]
WORLDS = {
    "real actions": [*PPO, *SMALL, "environment=pendulum"],
    "pairs of places": [*PPO, *PAIRS, "environment=grid_world", "environment.slip=0.5"],
}


def train(folder, *words):
    return framework.run([f"run.root={folder}", "callbacks=[checkpoint]", *TINY, *words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("ppo"), *PPO, *SMALL)


def test_an_evaluation_and_a_step_log_what_they_promise(run):
    assert {"eval/return", "eval/length", "eval/loss", "train/loss", "train/entropy"} <= set(run.metrics)
    lengths = testing.series(run, "eval/length")
    assert (lengths <= 12).all() and (lengths >= 1).all()
    np.testing.assert_array_equal(testing.series(run, "eval/return"), lengths)  # reward 1 for each step
    np.testing.assert_array_equal(testing.series(run, "eval/loss"), -lengths)
    told = testing.command("inspect", str(run.directory), "--memory", "1GiB", "--json")
    assert "own environments" in json.loads(told.out)["largest"]["limited_by"], told.err


@pytest.mark.parametrize(("task", "strategy"), [("ppo", "jit"), ("ppo", "vmapped"), ("policy_gradient", "jit")])
def test_no_random_key_is_used_twice(tmp_path, task, strategy):
    words = [f"task={task}", *SMALL, f"strategy={strategy}", "environment=pendulum"]
    more = ["task.epochs=2", "task.minibatches=2"] if task == "ppo" else []
    run = train(tmp_path, *words, *more, "train.steps=1", "debug=keys")
    assert np.isfinite(run.metrics["eval/return"])


@pytest.mark.slow
def test_a_member_that_acts_ends_alone_and_a_resumed_run_ends_it_too(tmp_path):
    words = [*WORLDS["real actions"], "callbacks=[checkpoint,early_stopping]", "train.steps=10"]
    words += ["callbacks.early_stopping.metric=eval/return", "callbacks.early_stopping.patience=2"]
    rates = ["strategy=vmapped", "strategy.members={optimizer.learning_rate: [0.002, 0.0]}"]
    together = train(tmp_path, *words, *rates)
    solo = train(tmp_path, *words, "optimizer.learning_rate=0.0")
    assert (together.status, solo.status) == ("done", "stopped")
    assert together.state.step.tolist() == [10, int(solo.state.step)] == [10, 6]
    assert [row["ended"] and row["ended"]["step"] for row in testing.run_record(together)["members"]] == [None, 6]
    # Its environments stand where those of its run alone ended, and its keys too.
    for left, right in zip(jax.tree.leaves(together.state), jax.tree.leaves(solo.state), strict=True):
        is_key = jax.dtypes.issubdtype(right.dtype, jax.dtypes.prng_key)
        one, other = (jax.random.key_data(left[1]), jax.random.key_data(right)) if is_key else (left[1], right)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    cut = train(tmp_path, *words, *rates, "train.steps=4")
    resumed = framework.resume(cut.directory, ["train.steps=10"])
    testing.assert_same_bits(resumed.state, together.state)
    assert testing.records(resumed) == testing.records(together)


def test_a_trained_policy_maps_observations_to_its_outputs(run):
    trained = framework.load(run.directory)
    outputs = np.asarray(trained(np.ones((5, 4), np.float32)))
    assert outputs.shape == (5, 2)
    np.testing.assert_allclose(trained.policy(np.ones((5, 4), np.float32)), outputs, rtol=1e-5)
    assert trained.value(np.ones((5, 4), np.float32)).shape == (5, 1)
    with pytest.raises(ConfigError, match="expected inputs float32"):
        trained(np.ones((5, 3), np.float32))


def test_a_perceptron_takes_nested_observations_and_so_does_its_trained_policy(tmp_path):
    words = [*PPO, *SMALL, "environment=grid_world", "policy.classes=4", "train.steps=1"]
    trained = framework.load(train(tmp_path, *words).directory)
    seen = Places(*np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32))
    assert trained(seen).shape == (5, 4)
    np.testing.assert_array_equal(trained(seen), trained(tuple(seen)))
    assert not np.allclose(trained(seen), trained(seen._replace(goal=-seen.goal)))


@pytest.mark.slow
@pytest.mark.parametrize("words", WORLDS.values(), ids=WORLDS)
def test_real_actions_and_nested_observations_are_alike_under_every_strategy(words, tmp_path):
    reference = train(tmp_path, *words)
    half = train(tmp_path, *words, "train.steps_per_call=1", "train.steps=2")
    resumed = framework.resume(half.directory, ["train.steps=4"])
    testing.assert_same_bits(resumed.state, reference.state)
    for strategy in ("pmap", "sharded"):
        run = train(tmp_path, *words, f"strategy={strategy}")
        for tag in {tag for record in testing.records(reference) for tag in record}:
            found, wanted = testing.series(run, tag), testing.series(reference, tag)
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5, err_msg=f"{strategy} {tag}")


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


def test_data_that_count_no_environments_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data: inputs are float32\[8, 6\], expected numbers .*data=episodes"):
        framework.run(["task=ppo", "data=synthetic", "data.shape=[6]", "data.batch_size=8", f"run.dir={tmp_path}/run"])


def _adam():
    """Adam as optax has it, which counts on dtypes that promote."""
    adam = optax.adam(0.005)
    return optax.GradientTransformation(*map(jax.numpy_dtype_promotion("standard"), adam))


ADAM = _adam()


def far(limit=3):
    """Tell whether the observation is above 1: reward 1 for the right choice."""

    def reset(key):
        seen = jax.random.normal(key, (1,))
        return seen, seen

    def step(key, state, action):
        after, _ = reset(key)
        return after, after, ((state[0] > 1) == (action == 1)).astype(jnp.float32), jnp.array(False)

    return Environment(reset, step, Discrete(2), limit)


def distance(limit=3):
    """Name the distance of the observation from 0, less 0.8: the reward is the negative squared error."""
    environment = far(limit)

    def step(key, state, action):
        after, _ = environment.reset(key)
        return after, after, -((action[0] - jnp.abs(state[0]) + 0.8) ** 2), jnp.array(False)

    bounds = np.full(1, 2, np.float32)
    return environment._replace(step=step, actions=Box(-bounds, bounds))


@pytest.mark.parametrize(("task", "make", "least"), [(policy_gradient, far, 2.7), (ppo, distance, -0.3)])
def test_a_simple_skill_is_learnt(task, make, least):
    made = task(mlp((16,), 2, "tanh"), mlp((16,), 1, "tanh"), make(), ADAM, steps=16)
    data = episodes(batch_size=16, episodes=50, eval_batch_size=50)
    state, batch = made.init(jax.random.key(0), data.spec), next(data.train(0))
    rounds = 60 if task is ppo else 200
    step = jax.jit(lambda state: jax.lax.fori_loop(0, rounds, lambda _, state: made.train_step(state, batch)[0], state))
    test = jax.jit(made.eval_step)
    before, after = (test(each, next(data.eval("episodes")))["return"] for each in (state, step(state)))
    assert before.total / before.count < least < after.total / after.count


def test_one_pass_of_ppo_is_a_policy_gradient():
    make = partial(ppo, epochs=1, minibatches=1)
    data = episodes(batch_size=8)
    after = []
    for task in (make, policy_gradient):
        made = task(mlp((8,), 2), mlp((8,), 1), far(), optax.sgd(0.1), steps=8, decay=0.9, entropy_weight=0.01)
        state = made.init(jax.random.key(0), data.spec)
        after.append(jax.jit(made.train_step)(state, next(data.train(0)))[0])
    for one, other in zip(*map(jax.tree.leaves, (after[0].params, after[1].params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
