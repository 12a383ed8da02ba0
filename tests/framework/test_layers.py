"""Stacks of stock stax, whose layers get names: the same numbers, values by layer, errors that name the layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.example_libraries import stax

from framework.api import as_model, layer_name, layer_outputs
from framework.errors import ConfigError
from framework.layers import opened
from framework.testing import assert_same_bits

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


def residual():
    """A block that knows its channels only when it sees the shape, as in JAX's own ResNet."""
    inner = stax.shape_dependent(lambda shape: stax.serial(stax.Conv(shape[3], (3, 3), padding="SAME"), stax.Tanh))
    return stax.serial(stax.FanOut(2), stax.parallel(inner, stax.Identity), stax.FanInSum)


def stack():
    return stax.serial(residual(), stax.Flatten, stax.Dense(5), stax.Dropout(0.5), stax.LogSoftmax)


LAYERS = [
    "0_serial/0_FanOut",
    "0_serial/1_parallel/0_shape_dependent/0_GeneralConv",
    "0_serial/1_parallel/0_shape_dependent/1_Tanh",
    "0_serial/1_parallel/0_shape_dependent",
    "0_serial/1_parallel/1_Identity",
    "0_serial/1_parallel",
    "0_serial/2_FanInSum",
    "0_serial",
    "1_Flatten",
    "2_Dense",
    "3_Dropout",
    "4_LogSoftmax",
]


def test_layers_of_a_stock_stack_are_named_and_its_numbers_are_the_same():
    init_fun, apply_fun = stack()
    model, key = as_model(stack()), jax.random.key(1)
    assert layer_name(model) == "serial"
    shape, params, state = model.init(key, INPUTS.shape)
    assert_same_bits((shape, params), init_fun(key, INPUTS.shape))
    outputs, after = model.apply(params, state, INPUTS, key=key, train=True)
    assert_same_bits(outputs, apply_fun(params, INPUTS, rng=key, train=True))
    assert after == ()
    seen = layer_outputs(lambda: apply_fun(params, INPUTS, rng=key))
    assert seen == {}
    seen = layer_outputs(lambda: model.apply(params, state, INPUTS, key=key))
    assert list(seen) == LAYERS
    assert_same_bits(seen["4_LogSoftmax"][0], outputs)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((-1, 8), r"layer 0_serial/1_parallel/0_shape_dependent cannot take inputs of shape \(-1, 8\): IndexError"),
        ((-1, 4, 4, 3), r"layer 2_FanInConcat cannot take inputs of shape \(-1, 48\): TypeError"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_layer(shape, text):
    model = as_model(stax.serial(residual(), stax.Flatten, stax.FanInConcat()))
    with pytest.raises(ConfigError, match=text):
        model.init(jax.random.key(0), shape)


def test_other_pairs_are_left_as_they_are():
    init_fun, apply_fun = stack()
    for pair in (
        stax.Relu,
        stax.Dense(3),
        (init_fun, jax.jit(apply_fun)),
        (init_fun, lambda *given: apply_fun(*given)),
    ):
        assert opened(pair) is pair
