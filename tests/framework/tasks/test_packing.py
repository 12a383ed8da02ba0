"""Outputs that are packed into plain numbers for a compiled step are the same after unpacking."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework.steps.metrics import WeightedMean, pack_outputs, unpack, unwrap_keys, wrap_keys


class State(NamedTuple):
    step: jax.Array
    key: Any


TREES = {
    "one key": lambda: jax.random.key(3),
    "a key of another kind": lambda: jax.random.key(3, impl="rbg"),
    "many keys": lambda: jax.random.split(jax.random.key(3), (2, 5)),
    "both kinds in a state": lambda: State(jnp.int32(1), {"a": jax.random.key(0, impl="rbg"), "b": jax.random.key(1)}),
    "no key": lambda: {"a": jnp.arange(3), "b": 2.5, "c": None},
}


def is_key(leaf):
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def numbers(tree):
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("way", [lambda function: function, jax.jit], ids=["plain", "compiled"])
@pytest.mark.parametrize("make", TREES.values(), ids=TREES.keys())
def test_keys_are_themselves_after_going_as_numbers(make, way):
    tree = make()
    plain = way(unwrap_keys)(tree)
    again = way(wrap_keys)(plain)
    assert not any(map(is_key, jax.tree.leaves(plain)))
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for found, expected in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
        assert jnp.result_type(found) == jnp.result_type(expected)
    assert all(map(np.array_equal, numbers(again), numbers(tree)))


def test_a_slim_step_makes_the_state_and_means_of_the_step_itself():
    def step(state, batch, axis=None):
        noise = jax.random.normal(jax.random.fold_in(state.key, state.step), batch.shape)
        means = {
            "noise": WeightedMean(noise.sum(), jnp.float32(noise.size)),
            "rows": WeightedMean(noise.sum(axis=0), jnp.float32(4)),
        }
        return State(state.step + 1, jax.random.split(state.key)[0]), means

    state, batch = State(jnp.int32(0), jax.random.key(7)), jnp.zeros((4, 3))
    expected, means = jax.jit(step)(state, batch)
    plain, packed = jax.jit(pack_outputs(step))(unwrap_keys(state), batch)
    assert all(map(np.array_equal, numbers(wrap_keys(plain)), numbers(expected)))
    found = unpack(packed)
    assert found.keys() == means.keys()
    for name, mean in means.items():
        np.testing.assert_array_equal(found[name].total, mean.total)
        np.testing.assert_array_equal(found[name].count, mean.count)
