"""A model as a pair of functions, put together with stax."""

from __future__ import annotations

from collections.abc import Callable

from jax.example_libraries import stax


def spiral_net(hidden: tuple[int, ...] = (64, 64)) -> tuple[Callable, Callable]:
    """A tanh network from points [B, 2] to logits [B, 1].

    Args:
      hidden: width of each hidden layer.
    """
    blocks = [[stax.Dense(width), stax.Tanh] for width in hidden]
    return stax.serial(*(layer for block in blocks for layer in block), stax.Dense(1))
