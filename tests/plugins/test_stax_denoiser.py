"""The denoiser: its shapes, its beginning, and its description of steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework.errors import ConfigError
from framework_stax.denoiser import denoiser, waves

SHAPE = {"inputs": (-1, 3, 3, 1), "step": (-1,)}


def test_outputs_are_like_the_inputs_and_begin_near_nothing(key):
    model = denoiser(8, 2)
    out_shape, params, state = model.init(key, SHAPE)
    inputs = {"inputs": jax.random.normal(key, (4, 3, 3, 1)), "step": jnp.arange(4)}
    outputs, _ = model.apply(params, state, inputs)
    assert outputs.shape == (4, *out_shape[1:]) == inputs["inputs"].shape
    assert 0 < np.abs(outputs).max() < 0.02
    grads = jax.grad(lambda params: jnp.square(model.apply(params, state, inputs)[0] - 1).sum())(params)
    assert np.any(grads.out.W)
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])).all()


def test_waves_are_numpys():
    frequencies = 10_000.0 ** -(np.arange(32) / 31)
    angles = np.array([[0], [3], [200]]) * frequencies
    np.testing.assert_allclose(waves(jnp.array([0, 3, 200])), np.c_[np.sin(angles), np.cos(angles)], atol=2e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: denoiser(width=0), "a width from 1 and blocks from 0"),
        (lambda: denoiser().init(None, (-1, 5)), 'expects inputs {"inputs": [B, ...], "step": [B]}'),
    ],
)
def test_refuses_in_one_line(make, said):
    with pytest.raises(ConfigError) as refusal:
        make()
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
