"""Differences between two points from a few seeds each: a bootstrap interval, and how many seeds would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"""Share of intervals that hold the true difference, if values are about normal."""

RESAMPLES = 10_000

MOST = 100
"""Seeds beyond which no number is named: then there is hardly a difference."""


class Difference(NamedTuple):
    """The mean of the right point less that of the left one.

    Attributes:
      mean: the difference.
      low, high: the ends of its interval; None for fewer than two seeds.
      seeds: of each point, or pairs.
      is_paired: whether each seed of one point was compared with the same seed of the other.
      needed: seeds that would tell such a difference, if the scatter stays as it is; None if the seeds do tell, and
        infinite beyond `MOST`.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    is_paired: bool
    needed: float | None

    @property
    def is_told(self) -> bool:
        """Tell whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def difference(left: Mapping[int, float], right: Mapping[int, float]) -> Difference | None:
    """Compare the values of two points by seed.

    With two seeds in common or more, those are paired: what a seed does to both points then cancels. Otherwise each
    point is resampled for itself.

    The interval is a percentile bootstrap of the mean, widened for few values by the factor √(n/(n−1)) · t/z of the
    narrowness bias and of Student's t (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"). The plain one
    of three values would leave out 0 in a quarter of all cases without a difference.

    Returns: None if a point has no finite value.
    """
    left, right = ({seed: v for seed, v in each.items() if math.isfinite(v)} for each in (left, right))
    shared = sorted(set(left) & set(right))
    if not left or not right:
        return None
    if len(shared) >= 2:
        pairs = np.array([right[seed] - left[seed] for seed in shared])
        return _interval(pairs, None, is_paired=True)
    return _interval(np.array(list(right.values())), np.array(list(left.values())), is_paired=False)


def _interval(values: np.ndarray, others: np.ndarray | None, is_paired: bool) -> Difference:
    """Bound the mean of values, less that of others."""
    samples = [values] if others is None else [values, -others]
    mean, count = float(sum(each.mean() for each in samples)), min(map(len, samples))
    if count < 2:
        return Difference(mean, None, None, count, is_paired, None)
    random = np.random.default_rng(0)
    spread = sum(
        each[random.integers(len(each), size=(RESAMPLES, len(each)))].mean(1) - each.mean() for each in samples
    )
    ends = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = mean + ends * _widening(count)
    is_told = not low <= 0 <= high
    variance = float(sum(each.var(ddof=1) for each in samples))
    return Difference(
        mean, float(low), float(high), count, is_paired, None if is_told else _needed(mean, variance, count)
    )


def _needed(mean: float, variance: float, count: int) -> float:
    """Return the number of seeds at which Student's interval would leave out 0."""
    sizes = (size for size in range(count + 1, MOST + 1) if _student(size) * math.sqrt(variance / size) < abs(mean))
    return next(sizes, math.inf)


def _widening(count: int) -> float:
    from scipy.special import ndtri

    return math.sqrt(count / (count - 1)) * _student(count) / float(ndtri((1 + LEVEL) / 2))


def _student(count: int) -> float:
    """Return the quantile of Student's t for the mean of so many values."""
    from scipy.special import stdtrit  # JAX brings SciPy along

    return float(stdtrit(count - 1, (1 + LEVEL) / 2))


def sentence(found: Difference, is_high_better: bool | None) -> str:
    """Say what a difference means.

    Args:
      is_high_better: whether high values are good; None if neither is.
    """
    seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    if found.low is None:
        return f"{seeds} cannot tell"
    if found.is_told:
        way = "higher" if found.mean > 0 else "lower"
        return way if is_high_better is None else "better" if is_high_better == (found.mean > 0) else "worse"
    if found.needed is None or math.isinf(found.needed):
        return f"{seeds} cannot tell, nor would {MOST}"
    return f"{seeds} cannot tell; about {found.needed} would"
