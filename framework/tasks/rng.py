"""Keys derive from names, never from the order of calls: adding a stream shifts no other one."""

from __future__ import annotations

import zlib

import jax

Key = jax.Array


def root_key(seed: int) -> Key:
    """The typed key of a run, from which all others derive."""
    return jax.random.key(seed)


def stream(key: Key, name: str) -> Key:
    """The key of a named stream, such as "dropout". crc32 rather than `hash`, which differs between processes."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def step_key(root: Key, step: jax.Array, axis: str | None = None) -> Key:
    """The key of one step, and of one device where an axis is named, so that devices draw different noise."""
    key = jax.random.fold_in(root, step)
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))
