"""The fewest examples of a batch with which a step is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Batch
from framework.tasks.nonfinite import learned, spoils
from framework_replay.case import Case

SAMPLED = 4
"""Examples that are tried alone at first: where each of them fails, all do."""

TRIES = 200
"""Steps that are made at most."""


def guilty(case: Case) -> list[list[int]] | None:
    """Find the fewest examples of a batch that a step fails with, by bisection.

    A part of the batch is repeated to the batch's size, so that one program serves all parts.

    Returns: groups of places in the batch; each fails by itself, and of several examples none of its halves does. A
      group of all is a step that fails with any example; None where the compiled step does not fail.
    """

    @jax.jit
    def is_bad(batch: Batch) -> jax.Array:
        after, means = case.step(case.state, batch)
        return ~jnp.isfinite(jnp.asarray(means["loss"][0])).all() | spoils(learned(case.state), learned(after))

    def fails(places: Sequence[int]) -> bool:
        rows = np.resize(np.asarray(places), case.size)
        return bool(is_bad(jax.tree.map(lambda leaf: leaf[rows], case.batch)))

    return groups(fails, case.size)


def groups(fails: Callable[[Sequence[int]], bool], size: int) -> list[list[int]] | None:
    """Find the fewest of `size` items with which `fails(items)` is true, as `guilty` does for examples."""
    whole = list(range(size))
    if not fails(whole):
        return None
    sample = sorted({*np.linspace(0, size - 1, min(SAMPLED, size)).astype(int).tolist()})
    if size > 1 and all(fails([each]) for each in sample):
        return [whole]
    left = TRIES

    def search(places: list[int]) -> list[list[int]]:
        nonlocal left
        if len(places) == 1 or left <= 0:
            return [places]
        halves = [places[: len(places) // 2], places[len(places) // 2 :]]
        left -= 2
        bad = [half for half in halves if fails(half)]
        return [group for half in bad for group in search(half)] or [places]

    return search(whole)
