"""Tiles: examplewise layers, run on a few examples at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.example_libraries import stax

from framework.api import Array, Model, as_model, is_collected

EXAMPLES = 8
"""Examples in a tile of a stack. With usual images, the values between a convolution and a pool stay in the cache."""

ELEMENTWISE = (stax.Elu, stax.Exp, stax.Gelu, stax.Identity, stax.LeakyRelu, stax.Relu, stax.Selu, stax.Sigmoid)
ELEMENTWISE += (stax.Softplus, stax.Tanh)
"""Stock layers that are examplewise; they carry no mark."""


def examplewise(model: Model) -> Model:
    """Mark a layer as examplewise: it treats each example of [B, …] alone, and takes neither key nor state."""
    model.apply.examplewise = True  # pyright: ignore[reportFunctionMemberAccess]
    return model


def is_examplewise(model: Model) -> bool:
    """Tell if a layer is marked as examplewise."""
    return getattr(model.apply, "examplewise", False)


def lifted(layer: Any) -> Model:
    """Lift a layer to a `Model`; mark stock activations as `examplewise`."""
    stock = any(layer is known for known in ELEMENTWISE)
    return examplewise(as_model(layer)) if stock else as_model(layer)


def by_tiles(function: Callable[..., Array], inputs: tuple[Array, ...], size: int) -> Array:
    """Apply an examplewise function tile after tile, in one compiled loop.

    Args:
      function: maps arrays [b, …], one for each input, to an array [b, …].
      inputs: arrays [B, …].
      size: examples in a tile, at least 1; the last tile may have fewer.

    Returns: the array [B, …] of `function(*inputs)`.
    """
    batch = inputs[0].shape[0]
    if not isinstance(batch, int) or batch <= size:  # an exported program has a symbolic one
        return function(*inputs)
    whole = batch - batch % size
    cut = tuple(each[:whole].reshape(-1, size, *each.shape[1:]) for each in inputs)
    tiles = lax.map(lambda tile: function(*tile), cut)
    outputs = tiles.reshape(whole, *tiles.shape[2:])
    if whole == batch:
        return outputs
    return jnp.concatenate([outputs, function(*(each[whole:] for each in inputs))])


def pays() -> bool:
    """Tell if tiles are faster: on CPUs, except where somebody looks inside, since a loop hides operations and values.

    `jax_debug_nans` looks for operations, and a probe may collect the outputs of layers.
    """
    debugs = jax.config.jax_debug_nans  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_backend() == "cpu" and not debugs and not is_collected()
