"""Leaves of pytrees by their paths, and the typed keys among them."""

from __future__ import annotations

from typing import Any

import jax

from framework.contracts import PyTree
from framework.errors import StorageError


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Return the leaves by readable path, such as "params/0_Conv/W", in the tree's order.

    Raises: StorageError if two leaves have the same path, as those of {"a": {"b": …}, "a/b": …} would.
    """
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree.leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in leaves:
            raise StorageError(f"two arrays of the state have the path '{path}'; rename the key that holds a '/'.")
        leaves[path] = leaf if hasattr(leaf, "dtype") else jax.numpy.asarray(leaf)
    return leaves


def data_by_path(tree: PyTree) -> dict[str, Any]:
    """Return the leaves by path as they are stored: of a typed key, its numbers, uint32 [..., n]."""
    return {path: jax.random.key_data(leaf) if is_key(leaf) else leaf for path, leaf in leaves_by_path(tree).items()}


def is_key(leaf: Any) -> bool:
    """Tell whether a leaf, an array or its shape, is a typed key of `jax.random`."""
    is_array = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    return is_array and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
