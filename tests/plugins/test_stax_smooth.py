"""GELU, softmax and standardization with derivatives of their own, against the plain functions and autodiff."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from framework_stax import smooth
from framework_stax.layers import linear

EPSILON = 1e-5


def plainly_standardized(x):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean)
    return (x - mean) / jnp.sqrt(variance + EPSILON)


PAIRS = {
    "gelu exact": (
        functools.partial(smooth.gelu, approximate=False),
        functools.partial(jax.nn.gelu, approximate=False),
    ),
    "gelu tanh": (smooth.gelu, jax.nn.gelu),
    "softmax": (smooth.softmax, jax.nn.softmax),
    "standardize": (functools.partial(smooth.standardize, epsilon=EPSILON), plainly_standardized),
}
SHAPES = [(5,), (3, 8), (2, 3, 4, 7)]


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]


def inputs_of(shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(3), shape, jnp.float32).astype(dtype) * 2


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_plain_form(pair, shape):
    ours, plain = pair
    x, cotangent = inputs_of(shape), jax.random.normal(jax.random.key(4), shape)
    value, pull = jax.vjp(jax.jit(ours), x)
    with jax.enable_x64(True):  # in float32 the plain form of a derivative near 0 is off by more than the bound
        expected, pull_plain = jax.vjp(jax.jit(plain), np.asarray(x, np.float64))
        gradient = pull_plain(jnp.asarray(np.asarray(cotangent, np.float64)))[0]
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(ours)(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(cotangent)[0], gradient, rtol=1e-5, atol=1e-5)


def test_derivatives_of_two_orders_and_both_modes_are_those_of_differences(pair):
    with jax.enable_x64(True):
        x = jnp.asarray(inputs_of((3, 8)), jnp.float64)
        check_grads(jax.jit(pair[0]), (x,), order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


def test_forward_mode_gives_the_jacobian_of_the_plain_form(pair):
    ours, plain = pair
    x = inputs_of((2, 5))
    expected = jax.jit(jax.jacrev(plain))(x)
    for transform in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(transform(ours))(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_keeps_its_dtype_and_comes_close(pair, dtype):
    ours, plain = pair
    x = inputs_of((4, 8), dtype)
    wide = x.astype(jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: (ours(x) * ours(x)).sum().astype(jnp.float32)))(x)
    expected = jax.jit(jax.grad(lambda x: (plain(x) * plain(x)).sum()))(wide)
    assert ours(x).dtype == gradient.dtype == dtype
    np.testing.assert_allclose(ours(x).astype(jnp.float32), plain(wide), atol=0.05)
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected, rtol=0.1, atol=0.2)
    assert np.isfinite(value)


@pytest.mark.parametrize("transform", ["vmap", "remat", "pmap"])
def test_composes_with(pair, transform):
    ours, plain = pair
    x = inputs_of((2, 3, 6))
    loss = lambda f: lambda x: (f(x) ** 3).sum()  # noqa: E731
    mapped = {
        "vmap": lambda g: jax.jit(jax.vmap(g, in_axes=1, out_axes=1)),
        "remat": lambda g: jax.jit(jax.grad(jax.checkpoint(loss(ours)))),
        "pmap": jax.pmap,
    }[transform]
    expected = jax.jit(jax.grad(loss(plain)))(x)
    np.testing.assert_allclose(mapped(jax.grad(loss(ours)))(x), expected, rtol=1e-4, atol=1e-5)


def test_extreme_scores_and_arguments_stay_finite():
    x = jnp.asarray([[-1e4, 0.0, 1e4, 50.0]])
    for function, _ in PAIRS.values():
        value, pull = jax.vjp(jax.jit(function), x)
        assert np.isfinite(value).all() and np.isfinite(pull(jnp.ones_like(x))[0]).all()


def test_other_platforms_get_the_plain_functions(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for ours, _ in PAIRS.values():
        assert "optimization_barrier" not in str(jax.make_jaxpr(jax.grad(lambda x, f=ours: f(x).sum()))(jnp.ones(4)))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_linear_is_the_product_with_the_last_axis(shape):
    x, W = inputs_of(shape), inputs_of((4, 5))
    expected = np.einsum("...i,io->...o", x, W)
    np.testing.assert_allclose(jax.jit(linear)(x, W), expected, rtol=1e-5, atol=1e-5)
    check_grads(jax.jit(linear), (x, W), order=1, atol=1e-2, rtol=1e-2)


def test_the_gradient_of_weights_is_made_without_a_transposed_copy():
    """The reason for `linear`: XLA's CPU backend would transpose the gradient of the outputs."""
    x, W = jnp.ones((12, 64, 96)), jnp.ones((96, 384))
    texts = [
        jax.jit(jax.grad(lambda weights, x, f=f: jnp.tanh(f(x, weights)).sum())).lower(W, x).compile().as_text()
        for f in (linear, jnp.dot)
    ]
    ours, plain = ("f32[384,768]" in text for text in texts)
    assert plain and not ours
