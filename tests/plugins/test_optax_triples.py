"""The optimizers of jax.example_libraries, held against their own trajectories."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.example_libraries import optimizers

from framework.api import as_optimizer
from framework_optax.triples import catalogue

FACTORIES = catalogue()
NEEDED = {"momentum": {"mass": 0.9}, "nesterov": {"mass": 0.9}}
RATE = 0.02
STEPS = 60
PARAMS = {"W": jnp.array([[10.0, -2.0], [0.5, 3.0]]), "b": jnp.array(1.0)}


def objective(params):
    return 0.5 * (jnp.array([[1.0, 2.0], [0.3, 1.0]]) * jnp.square(params["W"])).sum() + jnp.square(params["b"] - 3.0)


def descend(optimizer):
    def body(_, carry):
        params, state = carry
        updates, state = optimizer.update(jax.grad(objective)(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, STEPS, body, (PARAMS, optimizer.init(PARAMS)))


def own_trajectory(name, rate):
    init, update, get_params = getattr(optimizers, name)(rate, **NEEDED.get(name, {}))
    with jax.numpy_dtype_promotion("standard"):

        def body(i, state):
            return update(i, jax.grad(objective)(get_params(state)), state)

        return jax.jit(lambda: get_params(jax.lax.fori_loop(0, STEPS, body, init(PARAMS))))()


def assert_close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, wanted)


NAMES = sorted(name.removeprefix("example_") for name in FACTORIES)


def test_all_that_compile_are_found():
    assert NAMES == ["adagrad", "adam", "adamax", "momentum", "nesterov", "rmsprop", "rmsprop_momentum", "sgd"]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_triple(name):
    """Two lanes with a traced rate each: the adapter and the numbers in the state change nothing but roundings."""
    factory, needed = FACTORIES[f"example_{name}"], NEEDED.get(name, {})
    found, state = jax.jit(jax.vmap(lambda rate: descend(factory(rate, **needed))))(jnp.array([RATE, RATE / 2]))
    np.testing.assert_allclose(state.hyperparams["learning_rate"], [RATE, RATE / 2])
    for lane, rate in enumerate([RATE, RATE / 2]):
        assert_close(jax.tree.map(lambda leaf, i=lane: leaf[i], found), own_trajectory(name, rate))


def test_schedule_stands_for_the_step_size():
    schedule = optax.linear_schedule(RATE, 0.0, STEPS)
    found, state = jax.jit(lambda: descend(FACTORIES["example_adam"](schedule)))()
    assert_close(found, own_trajectory("adam", schedule))
    np.testing.assert_allclose(state.hyperparams["learning_rate"], schedule(STEPS - 1), rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "rmsprop"])
def test_adapter_of_the_core_follows_the_triple(name):
    """As for a third party's triple, without anything of this package around it."""
    triple = getattr(optimizers, name)(RATE, **NEEDED.get(name, {}))
    assert_close(jax.jit(lambda: descend(as_optimizer(triple)))()[0], own_trajectory(name, RATE))


@pytest.mark.parametrize("name", NAMES)
def test_state_keeps_its_types(name):
    optimizer = FACTORIES[f"example_{name}"](RATE, **NEEDED.get(name, {}))
    first = jax.eval_shape(optimizer.init, PARAMS)
    _, second = jax.eval_shape(optimizer.update, PARAMS, first, PARAMS)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    types = [[(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(state)] for state in (first, second)]
    assert types[0] == types[1]
    assert not any(weak for _, _, weak in types[0])
