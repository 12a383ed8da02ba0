"""Random keys, derived from names and never from the order of calls: a further stream changes no other one."""

from __future__ import annotations

import zlib

import jax

Key = jax.Array


def root_key(seed: int) -> Key:
    """Make the typed key of a run, from which all others derive."""
    return jax.random.key(seed)


def stream(key: Key, name: str) -> Key:
    """Derive the key of a named stream, such as "dropout", by crc32: `hash` differs between processes.

    The name is a scope too, by which a traced program tells its streams.
    """
    with jax.named_scope(name):
        return jax.random.fold_in(key, zlib.crc32(name.encode()))


def example_keys(key: Key, count: int, axis: str | None = None) -> Key:
    """Make a key for each example, by its place in the whole batch.

    Args:
      key: the same on all devices.
      count: examples on this device; all devices hold as many.
      axis: the mapped axis that cuts the batch, in the order of its examples; None for a whole batch.

    Returns: keys [count].
    """
    if axis is None:
        return jax.random.split(key, count)
    keys = jax.random.split(key, jax.lax.axis_size(axis) * count)
    return jax.lax.dynamic_slice_in_dim(keys, jax.lax.axis_index(axis) * count, count)


def step_key(root: Key, step: jax.Array, axis: str | None = None) -> Key:
    """Derive the key of one step, and of one device if an axis is named, so that devices draw different noise."""
    key = jax.random.fold_in(root, step)
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))
