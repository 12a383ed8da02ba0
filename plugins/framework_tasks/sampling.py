"""Sequences that a language model writes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from framework.api import Array
from framework.errors import ConfigError


def generate(
    logits_of: Callable[[Array], Array],
    prompt: Array,
    count: int,
    context: int,
    key: Array,
    temperature: float = 0.8,
    top_k: int = 0,
) -> Array:
    """Continue sequences by drawing one integer after the other.

    Each integer is drawn from the logits of the last `context` ones, which are computed anew.

    Args:
      logits_of: maps integers [B, context] to logits [B, context, K]; those of a position do not depend on later ones.
      prompt: int32 [B, P], P at least 1.
      count: integers to draw.
      context: positions that the model sees.
      key: of the draws; the integer at position i comes from the key and i.
      temperature: divides the logits; 0 takes the likeliest.
      top_k: draw from so many of the likeliest only; 0 for all.

    Returns: int32 [B, P + count].
    """
    check_sampling(temperature, top_k)
    begun, end = prompt.shape[1], prompt.shape[1] + count
    tokens = jnp.pad(prompt, ((0, 0), (0, max(end, context) - begun)))

    def is_unfinished(carry: tuple[Array, Array]) -> Array:
        return carry[0] < end

    def write(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        at, tokens = carry
        start = jnp.maximum(at - context, 0)
        window = jax.lax.dynamic_slice_in_dim(tokens, start, context, axis=1)
        logits = jnp.take(logits_of(window), at - 1 - start, axis=1)
        drawn = draw(jax.random.fold_in(key, at), logits, temperature, top_k)
        return at + 1, tokens.at[:, at].set(drawn.astype(tokens.dtype))

    return jax.lax.while_loop(is_unfinished, write, (jnp.asarray(begun), tokens))[1][:, :end]


def draw(key: Array, logits: Array, temperature: float, top_k: int = 0) -> Array:
    """Draw from softmax(logits / temperature) of the `top_k` likeliest: [B, K] to int32 [B]."""
    logits = logits.astype(jnp.float32)
    if temperature == 0:
        return logits.argmax(axis=-1)
    if not 0 < top_k < logits.shape[-1]:
        return jax.random.categorical(key, logits / temperature)
    likeliest, numbers = jax.lax.top_k(logits, top_k)
    drawn = jax.random.categorical(key, likeliest / temperature)
    return jnp.take_along_axis(numbers, drawn[:, None], axis=1)[:, 0]


def check_sampling(temperature: float, top_k: int) -> None:
    """Raise ConfigError if a temperature or a number of choices is negative."""
    if temperature < 0 or top_k < 0:
        text = f"temperature {temperature} and top_k {top_k}: expected 0 or more for both."
        raise ConfigError(text, key="temperature" if temperature < 0 else "top_k")
