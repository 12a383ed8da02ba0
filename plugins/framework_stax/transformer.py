"""A transformer as a language model: integers [B, T] to the logits of what follows each, [B, T, vocabulary]."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
from jax.nn.initializers import normal

from framework.api import Array, Model, PyTree, Shape
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
    """The parameters of a model whose first and last layer are one table."""

    embedding: Any
    body: Any


def transformer(
    vocabulary: int = 128,
    context: int = 64,
    layers: int = 4,
    heads: int = 4,
    width: int = 128,
    dropout: float = 0.0,
    tied: bool = True,
) -> Model:
    """A decoder-only transformer in the manner of GPT-2, on integers [B, T]; logits are [B, T, vocabulary].

    Learned positions, normalization before each part and after the last, exact GELU, hidden layers four times as wide,
    no biases; weights start with a standard deviation of 0.02, less by sqrt(2 layers) where they lead back into the
    residual stream. Radford et al. 2019, "Language models are unsupervised multitask learners".

    Args:
      vocabulary: how many integers there are, from 0; an input beyond gives NaN.
      context: the longest T.
      layers: pairs of an attention and a perceptron.
      heads: parts of the width that attend by themselves.
      width: features of a position.
      dropout: share that is dropped in training: of embeddings, attention weights, and what each part adds.
      tied: whether logits are products with the embedding table (Press and Wolf 2017, arXiv:1608.05859), which halves
        what a small model spends on its vocabulary, or have weights of their own.

    Raises: ConfigError if a size is below 1, heads do not divide the width, or dropout is not in [0, 1).
    """
    sizes = {"vocabulary": vocabulary, "context": context, "layers": layers, "heads": heads, "width": width}
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} is {size}, expected at least 1.")
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
    """Embed, apply the body, and score every row of the embedding's table: [...] to [..., vocabulary]."""

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Tied, PyTree]:
        table_key, body_key = jax.random.split(key)
        shape, table, _ = embedding.init(table_key, in_shape)
        shape, params, state = body.init(body_key, shape)
        return (*shape[:-1], table.W.shape[0]), Tied(table, params), state

    def apply(
        params: Tied, state: PyTree, inputs: Array, *, key: Array | None = None, train: bool = False
    ) -> tuple[Array, PyTree]:
        vectors, _ = embedding.apply(params.embedding, (), inputs)
        vectors, state = body.apply(params.body, state, vectors, key=key, train=train)
        return linear(vectors, params.embedding.W.T), state

    return Model(init, apply)


def _block(width: int, heads: int, dropout: float, stddev: float) -> Model:
    """What each layer adds to the residual stream: first by attention, then position by position."""
    attention = SelfAttention(heads, True, dropout, bias=False, W_init=normal(STDDEV), out_init=normal(stddev))
    exact = lift(functools.partial(gelu, approximate=False), "Gelu")
    wider, narrower = Dense(4 * width, normal(STDDEV), bias=False), Dense(width, normal(stddev), bias=False)
    return stack.serial(
        Residual(stack.serial(LayerNorm(center=False), attention, Dropout(dropout))),
        Residual(stack.serial(LayerNorm(center=False), wider, exact, narrower, Dropout(dropout))),
    )
