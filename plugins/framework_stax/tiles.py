"""Layers that treat each example by itself, run a few examples at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.example_libraries import stax

from framework.api import Array, Model, as_model

EXAMPLES = 8
"""In a tile of a stack: what lies between a convolution and a pool of usual images then stays in the cache."""

ELEMENTWISE = (stax.Elu, stax.Exp, stax.Gelu, stax.Identity, stax.LeakyRelu, stax.Relu, stax.Selu, stax.Sigmoid)
ELEMENTWISE += (stax.Softplus, stax.Tanh)
"""Stock layers that can say nothing of themselves."""


def examplewise(model: Model) -> Model:
    """Mark a layer that treats each example by itself, on arrays [B, …], and takes neither a key nor a state."""
    model.apply.examplewise = True  # pyright: ignore[reportFunctionMemberAccess]
    return model


def is_examplewise(model: Model) -> bool:
    """Whether a layer was marked so."""
    return getattr(model.apply, "examplewise", False)


def lifted(layer: Any) -> Model:
    """A layer as a `Model`; stock activations are marked as `examplewise`."""
    stock = any(layer is known for known in ELEMENTWISE)
    return examplewise(as_model(layer)) if stock else as_model(layer)


def by_tiles(function: Callable[..., Array], inputs: tuple[Array, ...], size: int) -> Array:
    """Apply a function of examples to `size` of them after the other, in one compiled loop.

    Args:
      function: of arrays [b, …], one for each input, to an array [b, …].
      inputs: arrays [B, …].
      size: the examples of a tile, at least 1; the last tile may have fewer.

    Returns: what `function(*inputs)` gives.
    """
    batch = len(inputs[0])
    if batch <= size:
        return function(*inputs)
    whole = batch - batch % size
    cut = tuple(each[:whole].reshape(-1, size, *each.shape[1:]) for each in inputs)
    tiles = lax.map(lambda tile: function(*tile), cut)
    outputs = tiles.reshape(whole, *tiles.shape[2:])
    if whole == batch:
        return outputs
    return jnp.concatenate([outputs, function(*(each[whole:] for each in inputs))])


def pays() -> bool:
    """Whether tiles do: on CPUs, unless NaNs are looked for, whose operation a compiled loop would hide."""
    return jax.default_backend() == "cpu" and not jax.config.jax_debug_nans  # pyright: ignore[reportAttributeAccessIssue]
