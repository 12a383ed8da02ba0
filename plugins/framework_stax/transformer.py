"""Transformer as a language model: integers [B, T] to logits of the next integer, [B, T, vocabulary]."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
from jax.nn.initializers import normal

from framework.api import Array, Fraction, Model, PyTree, Shape, Size, observed, scope
from framework.errors import ConfigError
from framework_stax import stack
from framework_stax.activations import lift
from framework_stax.attention import Positions, Residual, SelfAttention
from framework_stax.layers import Dense, Dropout, linear
from framework_stax.normalization import LayerNorm
from framework_stax.recurrent import Embedding
from framework_stax.smooth import gelu

STDDEV = 0.02  # of initial weights, as in GPT-2


class Tied(NamedTuple):
    """Parameters of a model with one table for its first and last layer."""

    embedding: Any
    body: Any


def transformer(
    vocabulary: Size = 128,
    context: Size = 64,
    layers: Size = 4,
    heads: Size = 4,
    width: Size = 128,
    dropout: Fraction = 0.0,
    tied: bool = True,
) -> Model:
    """Decoder-only transformer like GPT-2: integers [B, T] to logits [B, T, vocabulary].

    It has learned positions, a normalization before each part and after the last, exact GELU, hidden layers four times
    as wide, and no biases. Weights start with a standard deviation of 0.02; those that lead back into the residual
    stream have it divided by sqrt(2 layers). Source: Radford et al. 2019, "Language models are unsupervised multitask
    learners".

    Args:
      vocabulary: number of integers, from 0; an input beyond gives NaN.
      context: longest T.
      layers: number of pairs of an attention and a perceptron.
      heads: number of parts of the width, each with an attention of its own.
      width: features of a position.
      dropout: share that is dropped in training, of embeddings, attention weights, and the outputs of each part.
      tied: take the embedding table as the weights of the logits (Press and Wolf 2017, arXiv:1608.05859), which halves
        the parameters that a small model spends on its vocabulary; else give them weights of their own.

    Raises: ConfigError if heads do not divide the width, or dropout is not in [0, 1).
    """
    if width % heads:
        raise ConfigError(
            f"width {width} is not a multiple of heads {heads}; set model.width={-(-width // heads) * heads}."
        )
    blocks = [_block(width, heads, dropout, STDDEV / math.sqrt(2 * layers))] * layers
    names = ["positions", "dropout", *(f"block_{i}" for i in range(layers)), "norm"]
    body = [Positions(context, STDDEV), Dropout(dropout), *blocks, LayerNorm(center=False)]
    embedding = Embedding(vocabulary, width, STDDEV)
    if tied:
        return tied_by(embedding, stack.serial(*body, names=names))
    head = Dense(vocabulary, normal(STDDEV), bias=False)
    return stack.serial(embedding, *body, head, names=["embedding", *names, "head"])


def tied_by(embedding: Model, body: Model) -> Model:
    """Embed, apply the body, and multiply with the embedding's table: [...] to [..., vocabulary]."""

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Tied, PyTree]:
        table_key, body_key = jax.random.split(key)
        shape, table, _ = embedding.init(table_key, in_shape)
        shape, params, state = body.init(body_key, shape)
        return (*shape[:-1], table.W.shape[0]), Tied(table, params), state

    def apply(
        params: Tied, state: PyTree, inputs: Array, *, key: Array | None = None, train: bool = False
    ) -> tuple[Array, PyTree]:
        with scope("embedding"):
            vectors, _ = embedding.apply(observed("params", params.embedding), (), inputs)
            vectors = observed("outputs", vectors)
        vectors, state = body.apply(params.body, state, vectors, key=key, train=train)
        with scope("logits"):
            return observed("outputs", linear(observed("inputs", vectors), params.embedding.W.T)), state

    return Model(init, apply)


def _block(width: int, heads: int, dropout: float, stddev: float) -> Model:
    """One layer of the residual stream: attention, then a perceptron for each position."""
    attention = SelfAttention(heads, True, dropout, bias=False, W_init=normal(STDDEV), out_init=normal(stddev))
    exact = lift(functools.partial(gelu, approximate=False), "Gelu")
    wider, narrower = Dense(4 * width, normal(STDDEV), bias=False), Dense(width, normal(stddev), bias=False)
    return stack.serial(
        Residual(stack.serial(LayerNorm(center=False), attention, Dropout(dropout))),
        Residual(stack.serial(LayerNorm(center=False), wider, exact, narrower, Dropout(dropout))),
    )
