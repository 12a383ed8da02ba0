"""Leaves of pytrees: by their paths, in words, and the typed keys among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from framework.errors import StorageError

PyTree = Any


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Return (path, leaf) of every leaf, of any type, in the tree's order; paths are such as "params/0_Conv/W"."""
    named = jax.tree.leaves_with_path(tree)
    return [(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf) for keys, leaf in named]


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Turn trees of one structure, such as batches, into one tree of NumPy arrays [trees, ...].

    Raises: TypeError if their structures differ.
    """
    each = jax.tree.structure(trees[0])
    columns = jax.tree.transpose(jax.tree.structure([0] * len(trees)), each, list(trees))
    return each.unflatten(map(np.stack, each.flatten_up_to(columns)))


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Return the leaves by readable path, such as "params/0_Conv/W", in the tree's order.

    Raises: StorageError if two leaves have the same path, as those of {"a": {"b": …}, "a/b": …} would.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in named_leaves(tree):
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


def shapes_text(tree: PyTree) -> str:
    """Describe a tree by dtypes and shapes: "float32[16, 6]", or "{a: float32[16, 10]}"."""
    return str(jax.tree.map(shape_text, tree)).replace("'", "")


def shape_text(value: Any) -> str:
    """Describe an array by dtype and shape, a text by itself, and anything else by its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value) if isinstance(value, str) else type(value).__name__
