"""Ranges of integers that layers declare, so that inputs are held against them before a run begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from framework.trees import PyTree

_declared: ContextVar[list[tuple[Any, int]] | None] = ContextVar("declared", default=None)


def declare_below(inputs: Any, size: int) -> None:
    """Declare that a layer takes integers from 0 to below `size`, while its `apply` is traced.

    Where its inputs are those of the whole model, the core refuses data outside of the range before a run begins. It
    costs a compiled call nothing.

    Args:
      inputs: the layer's inputs, as `apply` was given them.
      size: number of rows of its table.
    """
    if (noted := _declared.get()) is not None:
        noted.append((inputs, size))


@contextmanager
def declared() -> Iterator[list[tuple[Any, int]]]:
    """Note what layers declare inside the context; a context around it notes the same."""
    noted: list[tuple[Any, int]] = []
    outer = _declared.get()
    token = _declared.set(noted)
    try:
        yield noted
    finally:
        _declared.reset(token)
        if outer is not None:
            outer += noted


def bounds_of(inputs: PyTree, noted: list[tuple[Any, int]]) -> list[int | None]:
    """Return for each leaf of a model's inputs the smallest size that a layer declared for it, None if none did."""
    return [min((size for at, size in noted if at is leaf), default=None) for leaf in jax.tree.leaves(inputs)]


def beyond(inputs: PyTree, weights: Any, bounds: list[int | None]) -> tuple[int, str] | None:
    """Find the first example that has an integer outside of what a layer declared.

    Args:
      inputs: leaves [N, ...]; those of weight 0 may hold anything.
      weights: [N], or None for examples that all count.
      bounds: of `bounds_of`.

    Returns: its row, from 0, and what was found and expected; None where all are sound.
    """
    leaves = jax.tree.leaves(inputs)
    for leaf, size in zip(leaves, bounds, strict=True) if len(leaves) == len(bounds) else ():
        values = np.asarray(leaf)
        if size is None or values.dtype.kind not in "iu" or not values.size:
            continue
        if values.min() >= 0 and values.max() < size:
            continue
        bad = (values < 0) | (values >= size)
        if np.shape(weights) == bad.shape[:1]:
            bad &= (np.asarray(weights) != 0).reshape(-1, *[1] * (bad.ndim - 1))
        for place in np.argwhere(bad)[:1].tolist():
            position = f" at {place[1:]}" if place[1:] else ""
            text = f"found the input {values[tuple(place)]}{position}, expected integers from 0 to {size - 1}"
            return place[0], f"{text}, which the model has vectors for"
    return None
