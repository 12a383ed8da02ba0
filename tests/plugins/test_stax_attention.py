"""Attention, layer norm, positions and residuals against jax.nn and plain formulas."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from framework.errors import ConfigError
from framework_stax.attention import Positions, Residual, SelfAttention
from framework_stax.layers import Dense, Dropout
from framework_stax.normalization import LayerNorm
from framework_stax.stack import serial

BATCH, STEPS, FEATURES, HEADS = 3, 6, 8, 2


def made(model, key, shape=(STEPS, FEATURES)):
    """Parameters without zeros, and inputs."""

    @jax.jit  # one program is quicker than one for each operation, here and below
    def draw(key):
        _, params, state = model.init(key, (-1, *shape))
        shift = lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(float(leaf.size))).reshape(leaf.shape)  # noqa: E731
        return jax.tree.map(shift, params), state, jax.random.normal(key, (BATCH, *shape))

    return draw(key)


@functools.partial(jax.jit, static_argnames="causal")
def reference(params, inputs, causal):
    """By `jax.nn.dot_product_attention`, which takes [B, T, heads, F / heads]."""
    linear = lambda p, x: jnp.einsum("bti,io->bto", x, p.W) + (p.b if len(p.b) else 0.0)  # noqa: E731
    parts = jnp.split(linear(params.qkv, inputs), 3, axis=-1)
    q, k, v = (part.reshape(*inputs.shape[:2], HEADS, -1) for part in parts)
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    return linear(params.out, mixed.reshape(inputs.shape))


class TestSelfAttention:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_values_and_gradients_are_those_of_jax_nn(self, key, causal, bias):
        model = SelfAttention(HEADS, causal, bias=bias)
        params, _, inputs = made(model, key)
        apply = jax.jit(lambda p, x: model.apply(p, (), x)[0])
        np.testing.assert_allclose(apply(params, inputs), reference(params, inputs, causal), rtol=1e-5, atol=1e-5)
        ours = jax.jit(jax.grad(lambda p, x: (apply(p, x) ** 2).sum(), (0, 1)))(params, inputs)
        expected = jax.jit(jax.grad(lambda p, x: (reference(p, x, causal) ** 2).sum(), (0, 1)))(params, inputs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected)

    def test_derivatives_are_those_of_differences(self, key):
        model = SelfAttention(HEADS, causal=True)
        with jax.enable_x64(True):
            params, _, inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), made(model, key))
            apply = jax.jit(lambda p, x: model.apply(p, (), x)[0])
            check_grads(apply, (params, inputs), order=1, atol=1e-5, rtol=1e-5)

    def test_what_comes_later_changes_nothing_before(self, key):
        model = SelfAttention(HEADS, causal=True)
        params, _, inputs = made(model, key)
        before, _ = model.apply(params, (), inputs)
        after, _ = model.apply(params, (), inputs.at[:, 4:].add(1.0))
        np.testing.assert_array_equal(before[:, :4], after[:, :4])
        assert not np.allclose(before[:, 4:], after[:, 4:])

    def test_dropout_draws_in_training_only(self, key):
        model, plain = SelfAttention(HEADS, dropout=0.5), SelfAttention(HEADS)
        params, _, inputs = made(model, key)
        drawn = [model.apply(params, (), inputs, key=jax.random.key(i), train=True)[0] for i in (0, 0, 1)]
        np.testing.assert_array_equal(drawn[0], drawn[1])
        assert not np.allclose(drawn[0], drawn[2])
        np.testing.assert_array_equal(model.apply(params, (), inputs)[0], plain.apply(params, (), inputs)[0])

    def test_computes_in_bfloat16(self, key):
        model = SelfAttention(HEADS, causal=True)
        params, _, inputs = made(model, key)
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, inputs))
        outputs, _ = model.apply(low[0], (), low[1])
        assert outputs.dtype == jnp.bfloat16
        expected = reference(params, inputs, True)
        np.testing.assert_allclose(outputs.astype(jnp.float32), expected, atol=0.03 * np.abs(expected).max())

    def test_runs_mapped_over_devices(self, key):
        model = SelfAttention(HEADS, causal=True)
        params, _, inputs = made(model, key)
        both = jnp.stack([inputs, 2 * inputs])
        loss = lambda p, x: (model.apply(p, (), x)[0] ** 2).sum()  # noqa: E731
        grads = jax.pmap(jax.grad(loss), axis_name="batch", in_axes=(None, 0))(params, both)
        second = jax.jit(jax.grad(loss))(params, both[1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a)[1], b, rtol=1e-4, atol=1e-4), grads, second)

    @pytest.mark.parametrize(("shape", "heads"), [((4,), 1), ((4, 6), 4), ((4, 6), 0)])
    def test_refuses_what_it_cannot_split(self, key, shape, heads):
        with pytest.raises(ConfigError, match=rf"SelfAttention of {heads} heads expects inputs \[B, T, F\]"):
            SelfAttention(heads).init(key, (-1, *shape))


class TestLayerNorm:
    @pytest.mark.parametrize("center", [False, True])
    @pytest.mark.parametrize("scale", [False, True])
    @pytest.mark.parametrize("shape", [(5,), (4, 6)])
    def test_equals_the_formula_in_numpy(self, key, center, scale, shape):
        model = LayerNorm(1e-3, center, scale)
        params, _, inputs = made(model, key, shape)
        x = np.asarray(inputs, np.float64)
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
        expected = expected * (params.gamma if scale else 1) + (params.beta if center else 0)
        np.testing.assert_allclose(model.apply(params, (), inputs)[0], expected, rtol=1e-5, atol=1e-5)
        assert len(jax.tree.leaves(params)) == center + scale

    def test_moments_of_bfloat16_are_taken_in_float32(self, key):
        model = LayerNorm()
        _, params, _ = model.init(key, (-1, 512))
        inputs = (100 + jax.random.normal(key, (4, 512))).astype(jnp.bfloat16)
        outputs, _ = model.apply(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), (), inputs)
        wide, _ = model.apply(params, (), inputs.astype(jnp.float32))
        assert outputs.dtype == jnp.bfloat16
        np.testing.assert_allclose(outputs.astype(jnp.float32), wide, atol=0.02)

    def test_refuses_an_epsilon_of_nothing(self):
        with pytest.raises(ConfigError, match="LayerNorm expects a positive epsilon, found 0"):
            LayerNorm(0)


class TestPositions:
    def test_adds_a_vector_to_each_position_of_shorter_inputs_too(self, key):
        model = Positions(STEPS, 1.0)
        params, _, inputs = made(model, key)
        for length in (STEPS, 2):
            part = inputs[:, :length]
            np.testing.assert_array_equal(model.apply(params, (), part)[0], part + params.W[:length])

    @pytest.mark.parametrize("shape", [(STEPS + 1, FEATURES), (STEPS,)])
    def test_refuses_what_has_no_position(self, key, shape):
        with pytest.raises(ConfigError, match="Positions with context 6 expects inputs"):
            Positions(STEPS).init(key, (-1, *shape))


class TestResidual:
    def test_adds_outputs_to_inputs_and_hands_key_and_mode_on(self, key):
        inner = serial(Dense(FEATURES), Dropout(0.5))
        params, state, inputs = made(Residual(inner), key)
        for options in ({}, {"key": key, "train": True}):
            outputs, _ = Residual(inner).apply(params, state, inputs, **options)
            np.testing.assert_array_equal(outputs, inputs + inner.apply(params, state, inputs, **options)[0])

    def test_refuses_a_layer_that_changes_the_shape(self, key):
        with pytest.raises(ConfigError, match=r"Residual expects a layer that keeps the shape \(-1, 8\)"):
            Residual(Dense(3)).init(key, (-1, FEATURES))
