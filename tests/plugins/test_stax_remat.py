"""Remat changes what is kept for the backward pass, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.example_libraries import stax

from framework.api import layer_name
from framework.errors import ConfigError
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework_stax.layers import BatchNorm, Dense, Dropout
from framework_stax.remat import Remat
from framework_stax.stack import serial

INNER = serial(Dense(16), BatchNorm(), stax.Tanh, Dropout(0.5), Dense(16), stax.Tanh)


def loss_of(model, params, state, key, train):
    outputs, after = model.apply(params, state, jnp.linspace(-1, 1, 24).reshape(6, 4), key=key, train=train)
    return (outputs**2).sum(), after


@pytest.mark.parametrize("train", [True, False])
def test_values_gradients_noise_and_state_are_those_of_the_layer(key, train):
    plain, remat = serial(INNER, Dense(2)), serial(Remat(INNER), Dense(2))
    shape, params, state = plain.init(key, (-1, 4))
    found = remat.init(key, (-1, 4))
    assert (shape, jax.tree.structure(params), jax.tree.structure(state)) == (
        found[0],
        *map(jax.tree.structure, found[1:]),
    )
    jax.tree.map(np.testing.assert_array_equal, (params, state), found[1:])
    noise = jax.random.key(1) if train else None
    results = [
        jax.value_and_grad(lambda p, m=model: loss_of(m, p, state, noise, train), has_aux=True)(params)
        for model in (plain, remat)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def gradient_program(model, train):
    _, params, state = model.init(jax.random.key(0), (-1, 4))
    noise = jax.random.key(1)
    return jax.make_jaxpr(jax.grad(lambda p: loss_of(model, p, state, noise, train)[0]))(params)


def test_the_gradient_computes_the_layer_again_in_training_alone():
    assert "remat" in str(gradient_program(Remat(INNER), train=True))
    assert "remat" not in str(gradient_program(INNER, train=True))
    assert "remat" not in str(gradient_program(Remat(INNER), train=False))


def test_fewer_values_are_kept_for_the_backward_pass():
    def kept(model):
        _, params, state = model.init(jax.random.key(0), (-1, 4))
        _, back = jax.vjp(lambda p: loss_of(model, p, state, jax.random.key(1), True)[0], params)
        return sum(leaf.size for leaf in jax.tree.leaves(back) if hasattr(leaf, "size"))

    assert kept(Remat(INNER)) < kept(INNER)


@pytest.mark.parametrize(
    "entry",
    [
        {"Remat": {"Dense": 3}},
        {"Remat": [{"Dense": 3}]},
        {"Remat": {"layer": {"Dense": [3]}}},
        {"Remat": {"Dense": {"out_dim": 3}}},
        {"Remat": {"name": "Dense", "out_dim": 3}},
    ],
)
def test_every_way_to_write_it_and_the_name_is_the_layers_own(entry, key):
    model = Builder(discover()).entry("layers", entry, "model.layers[0]")
    assert (layer_name(model), model.init(key, (-1, 4))[0]) == ("Dense", (-1, 3))


def test_stacks_and_plain_names_are_wrapped_too(key):
    build = Builder(discover()).entry
    stack = build("layers", {"Remat": {"serial": ["Relu", {"Remat": {"Dense": 3}}]}}, "k")
    assert list(stack.init(key, (-1, 4))[1].names) == ["0_Relu", "1_Dense"]
    assert layer_name(build("layers", {"Remat": "Relu"}, "k")) == "Relu"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"Remat": {"Dens": 3}}, "model.layers[0].Remat.layer: no layer is named 'Dens'"),
        ({"Remat": {}}, "model.layers[0].Remat.layer: layer 'Remat' (framework"),
        ({"Remat": {"layer": "Relu", "policy": 1}}, "has no option 'policy'"),
    ],
)
def test_mistakes_are_told_in_one_line(entry, text):
    with pytest.raises(ConfigError) as caught:
        Builder(discover()).entry("layers", entry, "model.layers[0]")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
