"""Arrays of examples as the tasks need them: noise, sums, outputs in the shape of inputs, and pictures."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch
from framework.errors import ConfigError


def noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """Draw standard normal numbers, float32 [B, *shape], each example's with its own key of `keys` [B].

    So an example's noise is the same on any number of devices, and in any number of parts.
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def folded(keys: Array, number: int) -> Array:
    """Derive further keys [B] from those of the examples, one for each number."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def summed(values: Array) -> Array:
    """Sum all numbers of an example: [B, ...] to [B]."""
    return values.reshape(values.shape[0], -1).sum(axis=-1)


def like(inputs: Array, outputs: Array, section: str) -> Array:
    """Give outputs the shape of inputs [B, ...], so that any network with as many outputs will do.

    Raises: ConfigError if an example has another number of outputs than of inputs.
    """
    if outputs.shape == inputs.shape:
        return outputs
    if outputs.size != inputs.size:
        wanted, found = math.prod(inputs.shape[1:]), math.prod(outputs.shape[1:])
        text = f"its outputs have {found} numbers an example, expected those of inputs {list(inputs.shape)}: {wanted}; "
        raise ConfigError(f"{text}of an mlp, set {section}.classes={wanted}.", key=section)
    return outputs.reshape(inputs.shape)


def outside_unit(spec: Batch, examples: Batch) -> tuple[int, str] | None:
    """Find the first example with a number outside [0, 1]: its row, and what was found and expected.

    Bytes that a pipeline scales later are not looked at.
    """
    inputs = examples["inputs"]
    if inputs.dtype != spec["inputs"].dtype:
        return None
    beyond = ~((inputs >= 0) & (inputs <= 1)).reshape(len(inputs), -1).all(axis=1)
    text = "found a number outside [0, 1], expected pixels or other shares; for pixels, set data.normalize=false"
    return (int(np.argmax(beyond)), text) if beyond.any() else None


def pictures(arrays: Array, count: int = 32) -> Array:
    """Return up to `count` examples as images, clipped to [0, 1]: [N, H, W, C], C 1 or 3.

    Examples of another shape become the rows of one image [N, F].
    """
    arrays = jnp.clip(arrays[:count].astype(jnp.float32), 0, 1)
    is_image = arrays.ndim == 4 and arrays.shape[-1] in (1, 3)
    return arrays if is_image else arrays.reshape(arrays.shape[0], -1)


def above(inputs: Array, outputs: Array) -> Array:
    """Return pictures of examples, each above that of its output; of rows [N, F], all of them above all outputs."""
    upper, lower = pictures(inputs), pictures(outputs)
    return jnp.concatenate([upper, lower], axis=1 if upper.ndim == 4 else 0)
