"""Curves of points: one for each point and tag, with the band between its seeds, thinned to what a chart can show."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from framework.tags import NO_METRICS
from framework_runs.naming import Point
from framework_runs.palette import Colour, colours
from framework_runs.reading import Series

POINTS = 300
"""Points of a curve in a chart that is a few hundred pixels wide."""


class Curve(NamedTuple):
    """A line of a chart.

    Attributes:
      label: of the point, with the split where a chart has several.
      colour: of the point.
      is_faint: whether it is drawn thin, as those of training beside those of evaluations are.
      steps, middle: the mean over the runs of the point.
      low, high: one standard deviation below and above the mean; empty for one run.
    """

    label: str
    colour: Colour
    is_faint: bool
    steps: Sequence[int]
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


class Chart(NamedTuple):
    """Curves of one metric."""

    title: str
    curves: Sequence[Curve]


def charts(points: Sequence[Point], tags: Sequence[str] = (), most: int = POINTS) -> list[Chart]:
    """Return a chart for each metric, with training and evaluation in one; losses come first.

    Args:
      tags: of the curves; empty takes all but `perf/…`, `probe/…`, `progress/…` and those of members.
      most: points of a curve.
    """
    logged = dict.fromkeys(tag for point in points for run in point.runs for tag in run.series)
    wanted = [tag for tag in logged if tag in tags] if tags else [tag for tag in logged if _is_shown(tag, logged)]
    groups: dict[str, list[str]] = defaultdict(list)
    for tag in wanted:
        groups[tag.partition("/")[2] or tag].append(tag)
    own = colours([point.key for point in points])
    found = []
    for title, each in sorted(groups.items(), key=lambda group: (group[0] != "loss", "learning_rate" in group[0])):
        has_both = len({tag.partition("/")[0] for tag in each}) > 1
        curves = []
        for point in points:
            for tag in each:
                is_train, split = tag.startswith("train/"), tag.partition("/")[0]
                label = f"{point.label} · {split}" if has_both else point.label
                curve = _curve(point, tag, label, own[point.key], has_both and is_train, most)
                curves += [curve] if curve is not None else []
        if any(len(curve.steps) > 1 for curve in curves):
            found.append(Chart(title if has_both else each[0], curves))
    return found


def _curve(point: Point, tag: str, label: str, colour: Colour, is_faint: bool, most: int) -> Curve | None:
    values: dict[int, list[float]] = defaultdict(list)
    for run in point.runs:
        for step, value in run.series.get(tag, ()):
            if math.isfinite(value):
                values[step].append(value)
    if not values:
        return None
    steps = sorted(values)
    middle = [sum(values[step]) / len(values[step]) for step in steps]
    bands: list[list[float]] = [[], []]
    if len(point.runs) > 1:
        sds = [statistics.stdev(values[step]) if len(values[step]) > 1 else 0.0 for step in steps]
        bands = [[mean + sign * sd for mean, sd in zip(middle, sds, strict=True)] for sign in (-1, 1)]
    kept = _kept(list(zip(steps, middle, strict=True)), most)
    middle, low, high = ([each[k] for k in kept] if each else [] for each in (middle, *bands))
    return Curve(label, colour, is_faint, [steps[k] for k in kept], middle, low, high)


def _kept(series: Series, most: int) -> list[int]:
    """Return the places of the points that stay: of each part of a long curve its lowest and its highest one."""
    if len(series) <= most:
        return list(range(len(series)))
    parts = max(1, most // 2 - 1)
    kept = {0, len(series) - 1}
    for part in range(parts):
        places = range(part * len(series) // parts, (part + 1) * len(series) // parts)
        kept |= {min(places, key=lambda k: series[k][1]), max(places, key=lambda k: series[k][1])}
    return sorted(kept)


def _is_shown(tag: str, logged: object) -> bool:
    head, _, tail = tag.rpartition("/")
    is_members = tail.isdecimal() and head in logged  # pyright: ignore[reportOperatorIssue]
    return not tag.startswith(NO_METRICS) and not is_members
