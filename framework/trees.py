"""Leaves of pytrees by their paths."""

from __future__ import annotations

from typing import Any

import jax

from framework.contracts import PyTree
from framework.errors import StorageError


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Leaves by readable path, such as "params/0_Conv/W", in the tree's order.

    Raises: StorageError if two have the same, as those of {"a": {"b": …}, "a/b": …} would.
    """
    flat, _ = jax.tree.flatten_with_path(tree)
    leaves: dict[str, Any] = {}
    for keys, leaf in flat:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in leaves:
            raise StorageError(f"two arrays of the state have the path '{path}'; rename the key that holds a '/'.")
        leaves[path] = leaf if hasattr(leaf, "dtype") else jax.numpy.asarray(leaf)
    return leaves


def data_by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves by path, as they are stored: keys as the numbers they are made of."""
    return {path: jax.random.key_data(leaf) if _is_key(leaf) else leaf for path, leaf in leaves_by_path(tree).items()}


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
