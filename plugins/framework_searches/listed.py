"""Searches whose points are known before any result: a grid, random points, and a Sobol sequence."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from framework.api import Goal, Interval, Search, Size, Space, Trial
from framework.errors import ConfigError
from framework_searches.points import point, spread

BITS = 30
"""Binary digits of a point of a Sobol sequence, as many as SciPy makes."""

Points = Callable[[Space, int], list[dict[str, Any]]]
"""`points(space, seed)` returns the parameters of all points."""


def grid(points: int | None = None) -> Search:
    """Try every combination of the values, in the order in which they are given; the last key varies fastest.

    Args:
      points: values of each interval, from its low to its high end, evenly spread; null refuses intervals.

    Raises: ConfigError if fewer than 2 are asked for.
    """
    if points is not None and points < 2:
        raise ConfigError(f"points: expected at least 2, the ends of an interval, found {points}.")
    return Listed(partial(combinations, count=points))


def random(trials: Size = 20) -> Search:
    """Try points that are drawn independently of each other (Bergstra and Bengio 2012, JMLR 13).

    Point n depends on the seed and on n alone, so that more trials leave the first ones as they are.

    Args:
      trials: number of points; one that is drawn again is left out.
    """
    return Listed(partial(draws, trials=trials))


def sobol(trials: Size = 32) -> Search:
    """Try the points of a Sobol sequence, which fill the space more evenly than random ones (Sobol 1967).

    More trials leave the first ones as they are.

    Args:
      trials: number of points; a power of 2 is the most even.
    """
    return Listed(partial(sequence, trials=trials))


class Listed(Search):
    """A search that asks for the points of a list, whatever it is told."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self._left: list[dict[str, Any]] = []

    def begin(self, space: Space, goals: Sequence[Goal], seed: int) -> int:
        """Make the list; a point that is drawn again would be the same run, and is left out."""
        points = {json.dumps(point, sort_keys=True): point for point in self.points(space, seed)}
        self._left = list(points.values())[::-1]
        return len(self._left)

    def ask(self) -> Trial | None:
        """Return the next point."""
        return Trial(self._left.pop()) if self._left else None

    @property
    def is_over(self) -> bool:
        """Tell if the list is used up."""
        return not self._left


def combinations(space: Space, seed: int, count: int | None = None) -> list[dict[str, Any]]:
    """Return all combinations of values.

    Args:
      space: the dimensions.
      seed: not used.
      count: values of each interval.

    Raises: ConfigError naming an interval, if it has no number of values.
    """
    for dimension in space:
        if isinstance(dimension, Interval) and count is None:
            text = "an interval has no single values; list some, as 1,2,3 or range(1,4), or set search.points=5"
            raise ConfigError(f"{text}, or take search=random.", key=dimension.key)
    rows = itertools.product(*(spread(dimension, count or 0) for dimension in space))
    return [{key: value for part in row for key, value in part.items()} for row in rows]


def draws(space: Space, seed: int, trials: int) -> list[dict[str, Any]]:
    """Return points that are drawn independently, each from a generator of its own."""
    return [point(space, np.random.default_rng([seed, n]).random(len(space)).tolist()) for n in range(trials)]


def sequence(space: Space, seed: int, trials: int) -> list[dict[str, Any]]:
    """Return the first points of a Sobol sequence, shifted digit by digit by random bits.

    The shift keeps how evenly the points lie (Owen 1998, "Scrambling Sobol' and Niederreiter-Xing points").
    """
    from scipy.stats import qmc  # takes longer to import than all the rest

    plain = qmc.Sobol(max(len(space), 1), scramble=False).random_base2((trials - 1).bit_length())
    digits = (plain[:trials, : len(space)] * (1 << BITS)).astype(np.int64)
    shift = np.random.default_rng(seed).integers(1 << BITS, size=len(space))
    return [point(space, units.tolist()) for units in (digits ^ shift) / (1 << BITS)]


SAMPLERS: dict[str, Callable[[int], Points]] = {
    "grid": lambda trials: combinations,
    "random": lambda trials: partial(draws, trials=trials),
    "sobol": lambda trials: partial(sequence, trials=trials),
}
"""Lists of points that other searches begin with, by name."""
