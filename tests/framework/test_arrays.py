"""A quickly compiled function gives the very bits of a fully optimized one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.nn import initializers

from framework.arrays import quick_jit
from framework.trees import stacked

MAKERS = {
    "uniform": initializers.uniform(),
    "normal": initializers.normal(),
    "truncated normal": initializers.truncated_normal(),
    "glorot": initializers.glorot_normal(),
    "he": initializers.he_uniform(),
    "lecun": initializers.lecun_normal(),
    "orthogonal": initializers.orthogonal(),
}


@pytest.mark.parametrize("members", [None, 5])
@pytest.mark.parametrize("name", MAKERS)
def test_it_makes_the_same_state(name, members):
    def init(seed):
        first, second = jax.random.split(jax.random.key(seed))
        params = {"W": MAKERS[name](first, (37, 64), jnp.float32), "b": MAKERS[name](second, (8, 3), jnp.float32)}
        return params, optax.adam(1e-3).init(params), jax.random.key_data(first)

    of_all = init if members is None else jax.vmap(init)
    seed = np.uint32(3) if members is None else np.arange(members, dtype=np.uint32)
    quick, well = quick_jit(of_all)(seed), jax.jit(of_all)(seed)
    for mine, reference in zip(jax.tree.leaves(quick), jax.tree.leaves(well), strict=True):
        np.testing.assert_array_equal(mine, reference)
        assert mine.sharding == reference.sharding and mine.dtype == reference.dtype


def test_what_it_is_given_beside_the_function_is_heeded():
    doubled = quick_jit(lambda x, times: x * times, static_argnames="times", donate_argnums=0)
    given = jnp.arange(4.0)
    np.testing.assert_array_equal(doubled(given, times=2), [0.0, 2.0, 4.0, 6.0])
    assert given.is_deleted()


def test_trees_of_one_structure_become_one_of_stacked_leaves():
    trees = [{"inputs": [np.full((2,), k, np.float32), (np.int32(k),)], "targets": None} for k in range(3)]
    found = stacked(trees)
    assert jax.tree.structure(found) == jax.tree.structure(trees[0])
    np.testing.assert_array_equal(found["inputs"][0], [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(found["inputs"][1][0], np.arange(3, dtype=np.int32), strict=True)
    with pytest.raises(TypeError, match="Mismatch"):
        stacked([trees[0], {"inputs": 1}])
