"""Inputs of a trained model: held against the shapes and dtypes that it was trained on, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import PyTree
from framework.errors import ConfigError


@dataclass(frozen=True)
class Expected:
    """One leaf of a model's inputs.

    Attributes:
      shape: with -1 for the batch.
      dtype: its name; None where the record of the run does not say.
    """

    shape: tuple[int, ...]
    dtype: str | None = None

    def __str__(self) -> str:
        return _words(self.dtype or "", ("B", *self.shape[1:]))


def expected_inputs(shapes: Any, dtypes: Any) -> PyTree:
    """Join shapes and dtypes, as JSON holds both, into a tree of `Expected`; lists of leaves become tuples."""
    if isinstance(shapes, dict):
        return {key: expected_inputs(shapes[key], dtypes and dtypes[key]) for key in shapes}
    if all(isinstance(size, int) for size in shapes):
        return Expected(tuple(shapes), dtypes)
    return tuple(expected_inputs(shape, dtypes and dtypes[i]) for i, shape in enumerate(shapes))


def checked_inputs(inputs: PyTree, expected: PyTree, hint: str) -> PyTree:
    """Return inputs as the model takes them: floats and integers of another width are cast, if no value is lost.

    Args:
      inputs: arrays [B, ...], or nested lists of numbers in the place of a single array; a named tuple is a plain one.
      expected: a tree of `Expected`.
      hint: tail of an error's line, on how to make such inputs.

    Raises: ConfigError with what is expected and what was found.
    """
    inputs = _as_array(inputs) if isinstance(expected, Expected) else jax.tree.map(_as_array, inputs)
    inputs = _unnamed(inputs)
    if jax.tree.structure(inputs) != jax.tree.structure(expected):
        raise ConfigError(f"expected inputs {described(expected)}, found {described(inputs)}{hint}.")
    pairs = zip(jax.tree.leaves_with_path(inputs), jax.tree.leaves(expected), strict=True)
    leaves = [_checked_leaf(jax.tree_util.keystr(path), leaf, wanted, hint) for (path, leaf), wanted in pairs]
    if len(sizes := {leaf.shape[0] for leaf in leaves}) > 1:
        raise ConfigError(f"expected inputs of one batch, found batches of {', '.join(map(str, sorted(sizes)))}.")
    return jax.tree.unflatten(jax.tree.structure(inputs), leaves)


def described(tree: PyTree) -> str:
    """Return dtypes and shapes of a tree of arrays, or of `Expected`, in words: "float32 [B, 28, 28, 1]"."""

    words = jax.tree.map(lambda leaf: str(leaf) if isinstance(leaf, Expected) else _words(leaf.dtype, leaf.shape), tree)
    return str(words).replace("'", "")


def _unnamed(tree: PyTree) -> PyTree:
    """Return a tree whose named tuples are plain ones, as the record of a run has them."""
    if isinstance(tree, dict):
        return {key: _unnamed(part) for key, part in tree.items()}
    return tuple(map(_unnamed, tree)) if isinstance(tree, tuple) else tree


def _checked_leaf(path: str, leaf: Any, expected: Expected, hint: str) -> Any:
    fits = leaf.ndim > 0 and leaf.shape[1:] == expected.shape[1:]
    cast = _cast(leaf, expected.dtype) if fits else None
    if cast is None:
        lacks_batch = leaf.shape == expected.shape[1:] and leaf.dtype == expected.dtype
        fix = "; add the axis of the batch, as inputs[None] does" if lacks_batch else hint
        raise ConfigError(f"expected inputs{path} {expected}, found {_words(leaf.dtype, leaf.shape)}{fix}.")
    return cast


def _cast(leaf: Any, dtype: str | None) -> Any:
    """Cast floats to floats and integers to integers; return None for what cannot stand for the dtype.

    Raises: ConfigError for a float that would become infinite.
    """
    if dtype is None or leaf.dtype == dtype:
        return leaf
    if all(jnp.issubdtype(each, jnp.floating) for each in (leaf.dtype, dtype)):
        with np.errstate(over="ignore"):
            cast = leaf.astype(dtype)
        if isinstance(leaf, np.ndarray) and (lost := np.isinf(cast) & np.isfinite(leaf)).any():
            raise ConfigError(f"expected inputs within the range of {dtype}, found {leaf[lost][0]:g}.")
        return cast
    if all(jnp.issubdtype(each, jnp.integer) for each in (leaf.dtype, dtype)):
        if np.can_cast(leaf.dtype, dtype):
            return leaf.astype(dtype)
        limits, values = np.iinfo(dtype), np.asarray(leaf)
        if values.size and limits.min <= values.min() <= values.max() <= limits.max:
            return values.astype(dtype)
    return None


def _as_array(numbers: Any) -> Any:
    if isinstance(numbers, np.ndarray | jax.Array):
        return numbers
    try:
        return np.asarray(numbers)
    except ValueError as error:
        raise ConfigError("expected inputs as one array, found nested lists of unequal lengths.") from error


def _words(dtype: Any, shape: tuple[Any, ...]) -> str:
    return f"{dtype} [{', '.join(map(str, shape))}]".strip()
