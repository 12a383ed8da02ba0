"""Keys that derive from names, and weighted means that stay exact through masks, padding, devices and merging."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from framework.errors import ConfigError
from framework.steps.metrics import weighted
from framework.steps.rng import root_key, step_key, stream

STREAMS = ("init", "model", "augment", "dropout", "eval", "")


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_a_root_key_is_typed_and_belongs_to_its_seed(seed):
    key = root_key(seed)
    assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert key.shape == ()
    assert bits(key) == bits(root_key(seed))


def test_seeds_differ():
    assert len({bits(root_key(seed)) for seed in (0, 1, 2, 2**31, 2**32 - 1)}) == 5


@pytest.mark.parametrize(("name", "crc"), [("dropout", 0x9289EFC9), ("augment", 0xEB167A19), ("init", 0xC674E474)])
def test_a_stream_folds_in_the_crc32_of_its_name(key, name, crc):
    assert bits(stream(key, name)) == bits(jax.random.fold_in(key, crc))


def test_streams_differ_from_each_other_and_from_their_key(key):
    derived = [bits(stream(key, name)) for name in STREAMS]
    assert len({*derived, bits(key)}) == len(STREAMS) + 1


def test_a_stream_does_not_depend_on_which_others_were_derived_before(key):
    alone = {name: bits(stream(key, name)) for name in STREAMS}
    for names in combinations(reversed(STREAMS), 3):
        assert {name: bits(stream(key, name)) for name in names} == {name: alone[name] for name in names}


def test_a_stream_is_the_same_in_another_process(key):
    code = (
        "import jax; from framework.steps.rng import root_key, stream;"
        "print(jax.random.key_data(stream(root_key(0), 'dropout')).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert tuple(map(int, done.stdout.strip("[]\n").split(","))) == bits(stream(root_key(0), "dropout"))


def test_steps_differ_and_are_the_same_under_jit(key):
    steps = jnp.arange(5, dtype=jnp.int32)
    eager = [bits(step_key(key, step)) for step in steps]
    assert len(set(eager)) == 5
    assert [bits(jax.jit(step_key)(key, step)) for step in steps] == eager


def test_devices_differ_where_an_axis_is_named(key):
    step = jnp.int32(3)
    mapped = jax.vmap(lambda _: jax.random.key_data(step_key(key, step, "batch")), axis_name="batch")(jnp.arange(4))
    expected = [bits(jax.random.fold_in(step_key(key, step), device)) for device in range(4)]
    assert [tuple(row.tolist()) for row in np.asarray(mapped)] == expected
    assert len(set(expected)) == 4


VALUES = np.array([1.0, 2.0, 4.0, 8.0], np.float32)


@pytest.mark.parametrize(
    ("weights", "total", "count"),
    [
        (None, 15.0, 4.0),
        ([1, 1, 1, 1], 15.0, 4.0),
        ([1, 0, 1, 0], 5.0, 2.0),
        ([0, 0, 0, 0], 0.0, 0.0),
        ([0.5, 2, 0, 0.25], 6.5, 2.75),
        ([True, False, False, True], 9.0, 2.0),
    ],
)
def test_a_mean_is_the_weighted_sum_and_the_summed_weight(weights, total, count):
    mean = weighted(jnp.asarray(VALUES), None if weights is None else jnp.asarray(weights))
    assert (float(mean.total), float(mean.count)) == (total, count)
    assert (mean.total.dtype, mean.count.dtype) == (jnp.float32, jnp.float32)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_statistics_of_any_trailing_shape_are_summed_over_examples(shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    weights = np.array([1, 0, 2, 1], np.float32)
    mean = weighted(jnp.asarray(values), jnp.asarray(weights))
    np.testing.assert_allclose(mean.total, np.tensordot(weights, values, 1))
    assert mean.total.shape == shape[1:]
    assert mean.count.shape == ()
    np.testing.assert_allclose(weighted(jnp.asarray(values), None).total, values.sum(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "bool"])
def test_no_weights_are_weights_of_one_whatever_the_dtype(dtype):
    values = jnp.asarray(np.arange(300) % 7, dtype)
    without, ones = weighted(values, None), weighted(values, jnp.ones(300))
    np.testing.assert_array_equal(np.float64(without.total), np.float64(ones.total))
    np.testing.assert_array_equal(np.float64(without.count), np.float64(ones.count))
    assert without.total.dtype == ones.total.dtype == jnp.float32


@pytest.mark.parametrize("padding", [np.nan, np.inf, -np.inf, 1e30])
def test_what_padding_holds_counts_neither_in_the_mean_nor_in_its_gradient(padding):
    weights = jnp.array([1.0, 1.0, 0.0, 0.0])
    values = jnp.asarray(VALUES).at[2:].set(padding)
    mean, gradient = jax.value_and_grad(lambda values: weighted(values, weights).total)(values)
    assert float(mean) == 3.0
    np.testing.assert_array_equal(gradient, [1.0, 1.0, 0.0, 0.0])


def test_the_gradient_is_that_of_the_weighted_sum():
    weights = jnp.array([0.5, 2.0, 0.0, 1.0])
    values = jnp.asarray(VALUES) / 8
    check_grads(jax.jit(lambda values: weighted(jnp.sin(values), weights).total), (values,), order=2, rtol=1e-2)


@pytest.mark.parametrize("cut", [[4], [1, 3], [2, 2], [1, 1, 1, 1], [3, 0, 1]])
def test_parts_merge_to_the_whole_exactly(cut):
    weights = np.array([1, 0, 2, 1], np.float32)
    edges = np.cumsum([0, *cut])
    parts = [
        weighted(jnp.asarray(VALUES[start:stop]), jnp.asarray(weights[start:stop])) for start, stop in pairwise(edges)
    ]
    whole = weighted(jnp.asarray(VALUES), jnp.asarray(weights))
    merged = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert (float(merged.total), float(merged.count)) == (float(whole.total), float(whole.count)) == (17.0, 4.0)


def test_padding_a_batch_changes_nothing():
    padded = weighted(jnp.pad(jnp.asarray(VALUES), (0, 3)), jnp.array([1.0] * 4 + [0.0] * 3))
    whole = weighted(jnp.asarray(VALUES), None)
    assert (float(padded.total), float(padded.count)) == (float(whole.total), float(whole.count))


@pytest.mark.parametrize(
    ("values", "weights", "text"),
    [
        (jnp.ones([]), None, "returned one number, expected one value per example"),
        (jnp.ones([]), jnp.ones(3), "returned one number, expected one value per example"),
        (jnp.ones(2), jnp.ones(3), "returned 2 values for a batch of 3 examples"),
        (jnp.ones([1, 3]), jnp.ones(3), "returned 1 values for a batch of 3 examples"),
    ],
)
def test_what_is_not_one_value_per_example_is_refused(values, weights, text):
    with pytest.raises(ConfigError, match=text):
        weighted(values, weights)
