"""A network that tells the noise in examples from the examples and a number of steps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import lecun_normal, normal

from framework.api import Array, Model, PyTree, Shape, Size, as_model, observed, scope
from framework.errors import ConfigError
from framework_stax.layers import Linear, linear
from framework_stax.smooth import standardize

FREQUENCIES = 32
"""Sines and cosines each that describe a step."""


class Block(NamedTuple):
    """Parameters of one residual block."""

    into: Linear  # W [F, F]
    step: Linear  # W [F, F]
    out: Linear  # W [F, F]


class Denoiser(NamedTuple):
    """Parameters of a denoiser."""

    into: Linear
    step: Linear
    blocks: tuple[Block, ...]
    out: Linear


def denoiser(width: Size = 512, blocks: int = 3) -> Model:
    """Residual network of dense layers: `{"inputs": [B, ...], "step": int32 [B]}` to outputs [B, ...] like the inputs.

    A step is described by sines and cosines of 32 frequencies, which are added in each block. Outputs begin near 0, and
    each block near the identity. Sources: Ho et al. 2020, arXiv:2006.11239, for the description of steps; He et al.
    2015, arXiv:1512.03385.

    Args:
      width: features of a block.
      blocks: number of them, of two dense layers each.

    Raises: ConfigError if a number is below 1, or the inputs are not such a mapping.
    """
    if width < 1 or blocks < 0:
        raise ConfigError(f"denoiser expects a width from 1 and blocks from 0, found {width} and {blocks}.")

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Denoiser]:
        if not isinstance(in_shape, dict) or set(in_shape) != {"inputs", "step"}:
            raise ConfigError(f'denoiser expects inputs {{"inputs": [B, ...], "step": [B]}}, found {in_shape}.')
        size, keys = math.prod(in_shape["inputs"][1:]), iter(jax.random.split(key, 3 + 3 * blocks))
        usual, small = lecun_normal(), normal(0.001)

        def made(make: Any, inputs: int, outputs: int) -> Linear:
            return Linear(make(next(keys), (inputs, outputs)), jnp.zeros(outputs))

        into, step = made(usual, size, width), made(usual, 2 * FREQUENCIES, width)
        inner = [
            Block(made(usual, width, width), made(usual, width, width), made(small, width, width))
            for _ in range(blocks)
        ]
        return in_shape["inputs"], Denoiser(into, step, tuple(inner), made(small, width, size))

    def apply(params: Denoiser, inputs: PyTree) -> Array:
        examples = inputs["inputs"]
        values = _affine("into", params.into, examples.reshape(examples.shape[0], -1))
        step = jax.nn.silu(_affine("step", params.step, waves(inputs["step"]).astype(values.dtype)))
        for i, block in enumerate(params.blocks):
            with scope("blocks"), scope(str(i)):
                inner = _affine("into", block.into, _normal(values)) + _affine("step", block.step, step)
                values = values + _affine("out", block.out, jax.nn.silu(_normal(inner)))
        return _affine("out", params.out, jax.nn.silu(_normal(values))).reshape(examples.shape)

    return as_model((init, apply), "denoiser")


def waves(step: Array) -> Array:
    """Describe numbers [B] by sines and cosines of frequencies from 1 down to 1/10,000: float32 [B, 64]."""
    frequencies = jnp.exp(jnp.linspace(0, -math.log(10_000), FREQUENCIES))
    angles = step.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _normal(values: Array) -> Array:
    return standardize(values, 1e-5)


def _affine(name: str, params: Linear, inputs: Array) -> Array:
    """Apply a dense layer in a scope of its own."""
    with scope(name):
        params, inputs = observed("params", params), observed("inputs", inputs)
        return observed("outputs", linear(inputs, params.W) + params.b)
