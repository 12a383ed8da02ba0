"""Random keys, derived from names and never from the order of calls: a further stream changes no other one."""

from __future__ import annotations

import zlib

import jax

Key = jax.Array


def root_key(seed: int) -> Key:
    """Make the typed key of a run, from which all others derive."""
    return jax.random.key(seed)


def stream(key: Key, name: str) -> Key:
    """Derive the key of a named stream, such as "dropout", by crc32: `hash` differs between processes."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def step_key(root: Key, step: jax.Array, axis: str | None = None) -> Key:
    """Derive the key of one step, and of one device if an axis is named, so that devices draw different noise."""
    key = jax.random.fold_in(root, step)
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))
