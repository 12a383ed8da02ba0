"""Gradients of single examples, and the noise that their mean has."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Probe, Problem, PyTree, TrainState
from framework.errors import ConfigError


def gradient_noise(at_once: int = 16) -> Probe:
    """Norms of the gradients of single examples, and the gradient noise scale.

    The noise scale is tr(Σ) / |G|², of the covariance Σ of single gradients and the true gradient G. It is the batch
    size up to which larger batches pay: below it twice the examples are almost worth two steps. Both parts are the
    unbiased estimates from one batch, so that a small batch, or a gradient of almost nothing, may give a negative one.
    Source: McCandlish et al. 2018, arXiv:1812.06162, section 2.2.

    Args:
      at_once: gradients of so many examples are in memory at once.

    Raises: ConfigError for a batch of one example, or at_once below 1.
    """
    if at_once < 1:
        raise ConfigError(f"at_once is {at_once}, expected at least 1.")

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        size = jax.tree.leaves(batch)[0].shape[0]
        if size < 2:
            raise ConfigError("the noise of a gradient needs a batch of at least 2 examples.")

        def one(example: Batch) -> tuple[Array, PyTree]:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            gradient = jax.grad(lambda params: problem.losses(params, state, alone)[0])(state.params)
            return _square(gradient), gradient

        squares, gradients = _each(one, batch, min(at_once, size))
        single, mean = squares.mean(), _square(jax.tree.map(lambda total: total / size, gradients))
        noise = (single - mean) * size / (size - 1)  # tr(Σ)
        signal = (size * mean - single) / (size - 1)  # |G|²
        norms = jnp.sqrt(squares)
        return {
            "norms": norms,
            "mean_norm": norms.mean(),
            "largest_norm": norms.max(),
            "noise": noise,
            "signal": signal,
            "noise_scale": noise / signal,
        }

    return probe


def _each(function: object, batch: Batch, at_once: int) -> tuple[Array, PyTree]:
    """Map over examples, some at a time: the first results [B], and the sum of the second ones."""
    size = jax.tree.leaves(batch)[0].shape[0]
    whole = size - size % at_once
    mapped = jax.vmap(function)  # pyright: ignore[reportArgumentType]

    def add(sums: PyTree, part: Batch) -> tuple[PyTree, Array]:
        squares, gradients = mapped(part)
        return jax.tree.map(lambda total, each: total + each.sum(axis=0), sums, gradients), squares

    parts = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, at_once, *leaf.shape[1:]), dict(batch))
    shapes = jax.eval_shape(mapped, jax.tree.map(lambda leaf: leaf[0], parts))[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), shapes)
    sums, squares = jax.lax.scan(add, zeros, parts)
    squares = squares.reshape(-1)
    if whole < size:
        sums, rest = add(sums, jax.tree.map(lambda leaf: leaf[whole:], dict(batch)))
        squares = jnp.concatenate([squares, rest])
    return squares, sums


def _square(tree: PyTree) -> Array:
    return sum((jnp.square(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(tree)), jnp.zeros([]))
