"""Steps of several networks and objectives against loops written by hand, and the sections that a factory takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from framework.api import Learner, Loss, Metric, Model, Network, Objective, Transform, keyed, stream
from framework.registry.sections import Section, sections_of
from framework.steps.rng import step_key
from framework.tasks.nonfinite import guarded
from framework.tasks.supervised import supervised
from framework_losses.losses import squared_error
from framework_stax.layers import Dense
from framework_stax.stack import serial

RNG = np.random.default_rng(0)
BATCH = {
    "inputs": jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32),
    "targets": jnp.asarray(RNG.normal(size=(8, 2)), jnp.float32),
    "weights": jnp.asarray([1, 2, 0, 1, 1, 0.5, 1, 1], jnp.float32),
}


def pair(accumulate=1, updates=1, every=1, rate=0.1, after_update=None):
    """Two linear maps: the first follows the targets, the second follows the first."""

    def first(nets, batch, keys):
        outputs, nets = nets.apply("one", batch["inputs"])
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys.examples)
        return jnp.square(outputs - batch["targets"] + 0.1 * noise).sum(-1), nets, {"size": jnp.abs(outputs).sum(-1)}

    def second(nets, batch, keys):
        wanted, _ = nets.apply("one", batch["inputs"])
        outputs, nets = nets.apply("two", batch["inputs"])
        return jnp.square(outputs - wanted).sum(-1), nets, {}

    return Learner(
        networks={"one": Network(serial(Dense(2))), "two": Network(serial(Dense(2)))},
        objectives={
            "one": Objective(first, ("one",), optax.sgd(rate)),
            "two": Objective(second, ("two",), optax.sgd(rate), updates, every),
        },
        accumulate=accumulate,
        begin=lambda nets, key, spec: jax.tree.map(jnp.copy, nets.params["two"]),
        after_update=after_update
        or (lambda nets: jax.tree.map(lambda a, b: (a + b) / 2, nets.own, nets.params["two"])),
    ).task()


def by_hand(params, key, step, updates, rate=0.1):
    """Make one step as a loop over objectives and updates, from means written out."""
    weights = BATCH["weights"] / BATCH["weights"].sum()
    keys = jax.random.split(stream(step_key(key, step), "one"), 8)
    noise = 0.1 * jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)

    def outputs(layers):
        return BATCH["inputs"] @ layers[0].W + layers[0].b

    def move(own, loss):
        return jax.tree.map(lambda p, g: p - rate * g, own, jax.grad(loss)(own))

    one = move(params["one"], lambda p: weights @ jnp.square(outputs(p) - BATCH["targets"] + noise).sum(-1))
    two = params["two"]
    for _ in range(updates):
        two = move(two, lambda p: weights @ jnp.square(outputs(p) - outputs(one)).sum(-1))
    return {"one": one, "two": two}


def trained(task, key, steps):
    state = task.init(key, BATCH)
    for _ in range(steps):
        state, means = jax.jit(task.train_step)(state, BATCH)
    return state, means


@pytest.mark.parametrize(("updates", "accumulate"), [(1, 1), (3, 1), (1, 4), (2, 2)])
def test_each_objective_moves_its_own_networks_and_sees_what_moved_before(key, updates, accumulate):
    task = pair(accumulate, updates)
    params, own = task.init(key, BATCH).params, task.init(key, BATCH).task_state
    for step in range(3):
        params = by_hand(params, key, step, updates)
        own = jax.tree.map(lambda a, b: (a + b) / 2, own, params["two"])
    state, means = trained(task, key, 3)
    for found, wanted in ((state.params, params), (state.task_state, own)):
        leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
        for left, right in leaves:
            np.testing.assert_allclose(left, right, rtol=2e-5, atol=1e-6)
    losses = [means[name].total / means[name].count for name in ("one/loss", "two/loss")]
    np.testing.assert_allclose(means["loss"].total, sum(losses), rtol=1e-6)
    assert set(means) == {"loss", "one/loss", "one/size", "two/loss"}


def test_an_objective_rests_between_its_turns_and_is_measured_all_the_same(key):
    task = pair(every=3)
    first, still = task.init(key, BATCH).params["two"], trained(task, key, 2)
    for left, right in zip(jax.tree.leaves(still[0].params["two"]), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(left, right)
    assert still[1]["two/loss"].total > 0
    moved = trained(task, key, 3)[0].params["two"]
    assert not np.array_equal(jax.tree.leaves(moved)[0], jax.tree.leaves(first)[0])


def test_an_update_that_is_not_finite_is_undone_for_all_groups_and_for_the_state_of_the_task(key):
    spoilt = guarded(pair(after_update=lambda nets: jax.tree.map(lambda leaf: leaf * jnp.nan, nets.own)))
    before = spoilt.init(key, BATCH)
    after, means = jax.jit(spoilt.train_step)(before, BATCH)
    for left, right in zip(jax.tree.leaves(after[1:3]), jax.tree.leaves(before[1:3]), strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(*(jax.tree.leaves(state.task_state)[0] for state in (after, before)))
    assert means["skipped"].total[0] == 1


def test_a_loss_may_take_a_key_of_the_step_which_evaluations_have_not(key):
    def noisy(outputs, batch, key=None):
        noise = 0 if key is None else jax.random.normal(key, (8,))
        return jnp.square(outputs - batch["targets"]).sum(-1) + noise

    plain, drawn = (supervised(serial(Dense(2)), loss, optax.sgd(0.0), {}) for loss in (squared_error(), noisy))
    state = drawn.init(key, BATCH)
    losses = []
    for _ in range(2):
        state, means = jax.jit(drawn.train_step)(state, BATCH)
        losses.append(float(means["loss"].total))
    assert losses[0] != losses[1]  # the parameters stay, the key goes on
    once, again = (jax.jit(drawn.eval_step)(state, BATCH)["loss"].total for _ in range(2))
    np.testing.assert_allclose([once, again], [2 * plain.eval_step(state, BATCH)["loss"].total] * 2, rtol=1e-6)
    assert keyed(squared_error())(jnp.ones((8, 2)), BATCH, key).shape == (8,)


def test_sections_are_the_parameters_that_stand_for_components():
    def task(
        generator: Model,
        loss: Loss,
        generator_optimizer: optax.GradientTransformation,
        metrics: Mapping[str, Metric],
        probe: Model | None = None,
        transforms: Sequence[Transform] = (),
        latent: int = 4,
    ):
        pass

    assert sections_of(task) == {
        "generator": Section("models"),
        "loss": Section("losses"),
        "generator_optimizer": Section("optimizers"),
        "metrics": Section("metrics", is_tagged=True),
        "probe": Section("models", is_required=False),
        "transforms": Section("transforms", is_tagged=True, is_required=False),
    }
