"""Policies: distributions over actions, from the outputs of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from framework.api import Array, Box, Discrete

LEAST, MOST = -5.0, 2.0
"""Bounds of the logarithm of a standard deviation, beyond which a policy never recovers."""


class Policy(NamedTuple):
    """A distribution over actions as pure functions of a model's outputs [B, size].

    Attributes:
      size: number of outputs.
      draw: `draw(key) -> noise [n]`, the chance in one action.
      sample: `sample(noise [B, n], outputs) -> actions [B, ...]`.
      best: `best(outputs) -> actions [B, ...]`, the most probable ones.
      log_probability: `log_probability(outputs, actions) -> [B]`.
      entropy: `entropy(outputs) -> [B]`.
      action: `action(action) -> action`, a single one as the environment takes it.
    """

    size: int
    draw: Callable[[Array], Array]
    sample: Callable[[Array, Array], Array]
    best: Callable[[Array], Array]
    log_probability: Callable[[Array, Array], Array]
    entropy: Callable[[Array], Array]
    action: Callable[[Array], Array] = lambda action: action


def policy_over(actions: Discrete | Box) -> Policy:
    """Return the policy over the actions of an environment."""
    return categorical(actions.size) if isinstance(actions, Discrete) else gaussian(actions)


def categorical(size: int) -> Policy:
    """One of several choices, from logits [B, size]."""

    def log_probability(logits: Array, actions: Array) -> Array:
        chosen = jax.nn.one_hot(actions, size, dtype=jnp.bool_)  # its gradient is no scatter, which is slow on a CPU
        return jnp.where(chosen, jax.nn.log_softmax(logits), 0).sum(-1)

    def entropy(logits: Array) -> Array:
        logs = jax.nn.log_softmax(logits)
        return -(jnp.exp(logs) * jnp.where(logs > -jnp.inf, logs, 0)).sum(-1)  # a logit of -inf forbids a choice

    def draw(key: Array) -> Array:
        return jax.random.gumbel(key, (size,))

    def sample(noise: Array, logits: Array) -> Array:
        return best(logits + noise)

    def best(logits: Array) -> Array:
        return logits.argmax(-1).astype(jnp.int32)

    return Policy(size, draw, sample, best, log_probability, entropy)


def gaussian(box: Box) -> Policy:
    """Independent normal distributions, from means and logarithms of standard deviations [B, 2 * actions].

    A mean from -1 to 1 goes from bound to bound; actions beyond them are cut to the bounds by the environment's side,
    after their probability was taken.
    """
    size, low, high = box.low.size, jnp.asarray(box.low), jnp.asarray(box.high)

    def parts(outputs: Array) -> tuple[Array, Array]:
        return outputs[:, :size], jnp.clip(outputs[:, size:], LEAST, MOST)

    def draw(key: Array) -> Array:
        return jax.random.normal(key, (size,))

    def sample(noise: Array, outputs: Array) -> Array:
        mean, scale = parts(outputs)
        return mean + jnp.exp(scale) * noise

    def log_probability(outputs: Array, actions: Array) -> Array:
        mean, scale = parts(outputs)
        each = -0.5 * ((actions - mean) / jnp.exp(scale)) ** 2 - scale - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)

    def entropy(outputs: Array) -> Array:
        return (parts(outputs)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def action(action: Array) -> Array:
        share = (jnp.clip(action, -1, 1).reshape(low.shape) + 1) / 2
        return low + share * (high - low)

    return Policy(2 * size, draw, sample, lambda outputs: parts(outputs)[0], log_probability, entropy, action)
