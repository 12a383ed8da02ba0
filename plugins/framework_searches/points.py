"""Points of a space, from numbers in the unit cube, one for each dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from framework.api import Choice, Interval, Space

DIGITS = 6
"""Significant digits of a number that is drawn, so that tables, commands and names of folders can be read."""


def point(space: Space, units: Sequence[float]) -> dict[str, Any]:
    """Return the parameters of a point, by config key.

    Args:
      space: the dimensions.
      units: [dimensions], each from 0 to below 1.
    """
    found: dict[str, Any] = {}
    for dimension, unit in zip(space, units, strict=True):
        found |= value_at(dimension, unit)
    return found


def value_at(dimension: Choice | Interval, unit: float) -> Mapping[str, Any]:
    """Return the value of each key of one dimension, from a number from 0 to below 1.

    All values of a choice are equally likely, and so are all whole numbers of an interval without `log`.
    """
    if isinstance(dimension, Choice):
        chosen = dimension.values[min(int(unit * len(dimension.values)), len(dimension.values) - 1)]
        return dict(zip(dimension.keys, chosen, strict=True))
    low, high = dimension.low, dimension.high + (1 if dimension.integer else 0)
    number = math.exp(_between(math.log(low), math.log(high), unit)) if dimension.log else _between(low, high, unit)
    if dimension.integer:
        return {dimension.key: min(max(math.floor(number), int(dimension.low)), int(dimension.high))}
    return {dimension.key: min(max(float(f"{number:.{DIGITS}g}"), dimension.low), dimension.high)}


def spread(dimension: Choice | Interval, count: int) -> list[Mapping[str, Any]]:
    """Return all values of a choice; of an interval `count` values from its low to its high end, evenly spread."""
    if isinstance(dimension, Choice):
        return [dict(zip(dimension.keys, values, strict=True)) for values in dimension.values]
    if dimension.integer:
        count = min(count, int(dimension.high - dimension.low) + 1)
    ends = (dimension.low, dimension.high)
    low, high = map(math.log, ends) if dimension.log else ends
    numbers = [_between(low, high, index / max(count - 1, 1)) for index in range(count)]
    numbers = [math.exp(number) for number in numbers] if dimension.log else numbers
    if dimension.integer:
        return [{dimension.key: value} for value in dict.fromkeys(round(number) for number in numbers)]
    inner = [min(max(float(f"{number:.{DIGITS}g}"), dimension.low), dimension.high) for number in numbers[1:-1]]
    return [{dimension.key: value} for value in ([*ends[:1], *inner, *ends[1:]] if count > 1 else ends[:1])]


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)
