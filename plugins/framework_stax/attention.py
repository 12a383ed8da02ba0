"""Layers of a transformer: self-attention, positions and residual connections."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import normal

from framework.api import Array, Fraction, Model, PyTree, Shape, Size, as_model
from framework.errors import ConfigError
from framework_stax.initializers import Initializer, initializer
from framework_stax.layers import Dropout, Linear, linear
from framework_stax.recurrent import Table
from framework_stax.smooth import single, softmax


class Attention(NamedTuple):
    """Parameters of an attention layer."""

    qkv: Linear  # W [F, 3 F]: queries, keys and values side by side, each of all heads
    out: Linear  # W [F, F]


def SelfAttention(
    heads: Size,
    causal: bool = False,
    dropout: Fraction = 0.0,
    bias: bool = True,
    W_init: Initializer = "glorot_normal",  # noqa: N803
    out_init: Initializer = "glorot_normal",
) -> Model:
    """Multi-head attention of a sequence to itself: [B, T, F] to [B, T, F].

    Queries, keys and values come from one matrix product. Scores and their softmax are float32 or wider for all
    inputs. On a CPU the derivative of the softmax is written by hand (`framework_stax.smooth`). Memory grows with T².
    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Args:
      heads: number of parts of the F features, each with an attention of its own.
      causal: hide later positions from each position, as a model of the next token needs it.
      dropout: share of the attention weights that is dropped in training, in [0, 1).
      bias: add a bias in both linear maps.
      W_init: initial weights [F, F] of queries, keys and values, a name of `jax.nn.initializers`.
      out_init: initial weights [F, F] of the outputs, likewise.

    Raises: ConfigError if the inputs are not [B, T, F], the heads do not divide F, or dropout is not in [0, 1).
    """
    drop = Dropout(dropout)
    make_W, make_out = initializer(W_init), initializer(out_init)

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Attention]:
        if len(in_shape) != 3 or heads < 1 or in_shape[-1] % heads:
            raise ConfigError(
                f"SelfAttention of {heads} heads expects inputs [B, T, F], F a multiple; found {in_shape}."
            )
        keys, size = jax.random.split(key, 4), in_shape[-1]
        W = jnp.concatenate(jax.vmap(lambda key: make_W(key, (size, size)))(keys[:3]), axis=1)
        biases = (jnp.zeros(3 * size), jnp.zeros(size)) if bias else ((), ())
        return in_shape, Attention(Linear(W, biases[0]), Linear(make_out(keys[3], (size, size)), biases[1]))

    def apply(params: Attention, inputs: Array, rng: Array | None, train: bool) -> Array:
        batch, length, size = inputs.shape
        qkv = _affine(params.qkv, inputs).reshape(batch, length, 3, heads, size // heads)
        query, key, value = jnp.moveaxis(qkv, (2, 3), (0, 2))  # each [B, heads, T, F / heads]
        wide = single(inputs.dtype)
        query = query * jnp.asarray(1 / math.sqrt(size // heads), query.dtype)
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=wide)
        weights = softmax(scores + _causal(length, wide) if causal else scores).astype(inputs.dtype)
        weights, _ = drop.apply((), (), weights, key=rng, train=train)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
        return _affine(params.out, jnp.moveaxis(mixed, 1, 2).reshape(inputs.shape))

    return as_model((init, apply), "SelfAttention")


def Positions(context: Size, stddev: float = 0.02) -> Model:
    """Add a learned vector to each position: [B, T, F] to [B, T, F].

    Args:
      context: the longest T.
      stddev: standard deviation of the initial values; 0.02 as in GPT-2.

    Raises: ConfigError if the inputs are not [B, T, F] or longer than the context.
    """

    def check(shape: Shape) -> None:
        if len(shape) != 3 or shape[1] > context:
            raise ConfigError(f"Positions with context {context} expects inputs [B, T ≤ {context}, F], found {shape}.")

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Table]:
        check(in_shape)
        return in_shape, Table(normal(stddev)(key, (context, in_shape[-1])))

    def apply(params: Table, inputs: Array) -> Array:
        check(inputs.shape)
        return inputs + params.W[: inputs.shape[1]]

    return as_model((init, apply), "Positions")


def Residual(layer: Model) -> Model:
    """Add the outputs of a layer, or of a stack, to its inputs.

    Source: He et al. 2015, arXiv:1512.03385.

    Args:
      layer: a layer that keeps the shape, by name: `{Residual: {serial: [LayerNorm, {SelfAttention: 4}]}}`.

    Raises: ConfigError if the layer changes the shape of its inputs.
    """

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        out_shape, params, state = layer.init(key, in_shape)
        if tuple(out_shape) != tuple(in_shape):
            raise ConfigError(f"Residual expects a layer that keeps the shape {in_shape}, found outputs {out_shape}.")
        return out_shape, params, state

    def apply(
        params: PyTree, state: PyTree, inputs: Array, *, key: Array | None = None, train: bool = False
    ) -> tuple[Array, PyTree]:
        outputs, state = layer.apply(params, state, inputs, key=key, train=train)
        return inputs + outputs, state

    return Model(init, apply)


def _affine(params: Linear, inputs: Array) -> Array:
    outputs = linear(inputs, params.W)
    return outputs if isinstance(params.b, tuple) else outputs + params.b


def _causal(length: int, dtype: Any) -> Array:
    """Mask [T, T], to be added to scores [..., query, key]: 0 for keys up to the query, else about -infinity."""
    query, key = (lax.broadcasted_iota(jnp.int32, (length, length), axis) for axis in (0, 1))
    return jnp.where(key <= query, jnp.zeros([], dtype), jnp.asarray(jnp.finfo(dtype).min / 2, dtype))
