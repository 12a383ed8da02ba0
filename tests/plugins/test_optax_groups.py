"""Optimizers by group of parameters: each group moves as it would under its own optimizer alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import framework
from framework.errors import ConfigError
from framework_optax.chain import chain, groups

PARAMS = {
    "0_Conv": {"W": jnp.array([[1.0, -2.0]]), "b": jnp.array([3.0])},
    "1_Dense": {"W": jnp.array([0.5]), "b": jnp.array([-0.5])},
}


def trained(optimizer, params=PARAMS, steps=3):
    """Parameters after some steps down a square, and the optimizer's state."""

    @jax.jit
    def run(params):
        state = optimizer.init(params)
        for _ in range(steps):
            updates, state = optimizer.update(jax.tree.map(lambda leaf: 2 * leaf, params), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    with jax.numpy_dtype_promotion("standard"):  # optax's own code leans on it
        return run(params)


RATE = optax.linear_schedule(0.1, 0.0, 4)


@pytest.mark.parametrize(
    ("given", "alone"),
    [
        ({"0_*": "freeze", "*": "sgd"}, {"0_Conv/*": None, "1_Dense/*": optax.sgd(RATE)}),
        ({"*": "adam", "*/b": {"sgd": {"momentum": 0.9}}}, {"*/W": optax.adam(RATE), "*/b": optax.sgd(RATE, 0.9)}),
        (
            {"*": {"adamw": {"learning_rate": 0.5}}, "0_Conv/W": "sgd", "0_*": "freeze"},
            {"1_Dense/*": optax.adamw(0.5), "0_Conv/W": optax.sgd(RATE), "0_Conv/b": None},
        ),
        (
            {"1_*": [{"clip_by_global_norm": {"max_norm": 0.1}}, "sgd"], "*": "freeze"},
            {"1_Dense/*": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(RATE)), "0_*": None},
        ),
    ],
)
def test_each_group_moves_as_under_its_own_optimizer_alone(given, alone):
    found, _ = trained(groups(given, RATE))
    paths = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat(PARAMS)}
    moved = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat(found)}
    for pattern, optimizer in alone.items():
        own = {path: leaf for path, leaf in paths.items() if matches(path, pattern)}
        expected = own if optimizer is None else trained(optimizer, own)[0]
        assert expected
        for path, leaf in expected.items():
            np.testing.assert_allclose(moved.pop(path), leaf, rtol=1e-5, err_msg=path)
    assert not moved


def flat(tree):
    return jax.tree.flatten_with_path(tree)[0]


def matches(path, pattern):
    return path.startswith(pattern.rstrip("*")) if pattern.endswith("*") else path.endswith(pattern.lstrip("*"))


def test_hyperparameters_are_in_the_state_under_names_of_their_own():
    _, state = trained(groups({"*/b": {"sgd": {"learning_rate": 0.5}}, "*": "sgd", "0_*": "freeze"}, RATE))
    assert set(state.hyperparams) == {"sgd_0__learning_rate", "learning_rate"}
    np.testing.assert_allclose(state.hyperparams["learning_rate"], RATE(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"0_Covn/*": "freeze", "*": "sgd"}, "groups '0_Covn/*' matches no parameter; the nearest paths are 0_Conv/"),
        ({"0_*": "sgd"}, "groups: no pattern matches the parameter '1_Dense/W'; add one, such as '*'"),
        ({"0_*": "sgd", "1_*": "sgd", "*": "sgd"}, "groups '*': each parameter that it matches has a more specific"),
        ({"*": "sdg"}, "groups '*': optax has no transform 'sdg'. Did you mean 'sgd'?"),
        ({"*": "freeze"}, "groups: none takes the learning rate"),
        ({}, "groups: it is empty"),
    ],
)
def test_mistakes_are_told_in_one_line(given, text):
    with pytest.raises(ConfigError) as caught:
        groups(given, 0.1).init(PARAMS)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_chain_ends_with_freeze_too():
    found, _ = trained(chain(0.1, ["adam", {"freeze": {"mask": "0_*"}}]))
    jax.tree.map(np.testing.assert_array_equal, found["0_Conv"], PARAMS["0_Conv"])
    jax.tree.map(
        lambda a, b: np.testing.assert_raises(AssertionError, np.testing.assert_array_equal, a, b),
        found["1_Dense"],
        PARAMS["1_Dense"],
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        ["optimizer=groups", "optimizer.groups={1_Dense/*: freeze, *: adam}"],
        ["optimizer=chain", "optimizer.transforms=[adam, {freeze: {mask: 1_Dense/*}}]"],
    ],
)
def test_a_frozen_layer_keeps_its_first_parameters_through_a_run(tmp_path, optimizer):
    words = "data=synthetic data.shape=[6] data.examples=32 data.batch_size=16 data.eval_batch_size=16 model=mlp"
    steps = ["model.hidden=[8]", "train.log_every=0", "train.eval_every=0", "callbacks=[]", f"run.root={tmp_path}"]
    one, many = (framework.run([*words.split(), *steps, *optimizer, f"train.steps={n}"]).state.params for n in (1, 4))
    jax.tree.map(np.testing.assert_array_equal, one["1_Dense"], many["1_Dense"])
    assert not np.array_equal(one["4_Dense"].W, many["4_Dense"].W)
