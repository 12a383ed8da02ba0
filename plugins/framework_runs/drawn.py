"""A sweep as charts show it: its settings with their colours, and the axes of its parameters and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framework.contracts.search import Goal, Interval
from framework.errors import StorageError
from framework.sweeps import folder as folders
from framework.sweeps.labels import label, short
from framework.sweeps.ledger import Ledger, Point
from framework.sweeps.results import Results, results_of
from framework.sweeps.start import recorded
from framework_runs import naming
from framework_runs.palette import Colour, colours
from framework_runs.reading import read

NAMED = 8
"""Settings that have a colour and a name in a legend: the best ones. More would not be told apart; others are grey."""

DECADES = 50
"""Ratio of the largest to the least value from which on an axis is logarithmic."""


class Setting(NamedTuple):
    """Points that differ in their seed alone.

    Attributes:
      runs: their runs, as far as they have begun, with the name of the setting and the key of its colour.
      colour: the one that its runs have in all charts.
      is_named: it is among the best, and so drawn in its colour.
      parameters: plain values by config key, without the seed.
      points: those that are done.
      is_on_front: no other setting is better in all of the metrics to improve.
    """

    runs: naming.Point
    colour: Colour
    is_named: bool
    parameters: Mapping[str, Any]
    points: Sequence[Point]
    is_on_front: bool

    def mean(self, tag: str) -> float:
        """Return the mean of a metric over the points that have it; NaN if none has."""
        values = [point.scalars[tag] for point in self.points if tag in point.scalars]
        return sum(values) / len(values) if values else math.nan


class Axis(NamedTuple):
    """The axis of a parameter or a metric.

    Attributes:
      key: of the config, or the tag.
      name: for people.
      values: its distinct values, sorted if they are numbers.
      is_number: otherwise values are names, which have the places 0, 1, …
      is_log: the axis is logarithmic.
    """

    key: str
    name: str
    values: Sequence[Any]
    is_number: bool
    is_log: bool

    def at(self, value: Any) -> float:
        """Return the coordinate of a value: itself, or the place of a name."""
        return float(value) if self.is_number else float(self.values.index(value))

    def share(self, value: Any) -> float:
        """Return the place of a value between the ends of the axis, from 0 to 1."""
        ends = [self.at(self.values[0]), self.at(self.values[-1])]
        low, high, at = (math.log(each) if self.is_log else each for each in (*ends, self.at(value)))
        return (at - low) / (high - low) if high > low else 0.5


class Sweep(NamedTuple):
    """Values that charts of a sweep need.

    Attributes:
      results: its table.
      settings: the best first.
      parameters: axes of those that differ, without the seed.
      goals: the metrics to improve, those that were logged.
    """

    results: Results
    settings: Sequence[Setting]
    parameters: Sequence[Axis]
    goals: Sequence[Goal]

    @property
    def done(self) -> list[Point]:
        """The points that are done."""
        return [point for setting in self.settings for point in setting.points]

    def metric(self, tag: str) -> Axis:
        """Return the axis of a metric, over the means of the settings."""
        means = [setting.mean(tag) for setting in self.settings]
        return axis(tag, [mean for mean in means if math.isfinite(mean)])._replace(name=tag)


def sweep_of(folder: Path) -> Sweep:
    """Read the sweep of a folder.

    Raises: StorageError if it is none, or no point of it is done with the metric to improve.
    """
    with Ledger(folders.ledger_of(folders.check(folder))) as ledger:
        plan, goals = recorded(ledger)
        points = {point.number: point for point in ledger.points()}
        results = results_of(folder, ledger, goals)
    if results.best is None:
        text = f"{folder} has nothing to draw: none of its points is done and has {results.goal.tag}."
        raise StorageError(text)
    places = {number: folder / point.directory for number, point in points.items()}
    runs = {number: read(place) for number, place in places.items() if (place / "run.json").is_file()}
    grouped = naming.points(list(runs.values()))
    taken = colours([each.key for each in grouped])
    key_of = {run.folder: each.key for each in grouped for run in each.runs}
    settings: list[Setting] = []
    for row in results.rows:
        own = [runs[number] for number in row.numbers if number in runs]
        if own:
            key, done = key_of[own[0].folder], [points[n] for n in row.numbers if points[n].state == "done"]
            named, is_named = naming.Point(label(row.setting) or plan.name, key, own), len(settings) < NAMED
            settings.append(Setting(named, taken[key], is_named, row.setting, done, row in results.front))
    logs = [each.key for each in plan.space if isinstance(each, Interval) and each.log]
    keys = dict.fromkeys(key for each in settings for key in each.parameters)
    axes = [axis(key, [each.parameters.get(key) for each in settings], key in logs) for key in keys]
    logged = [goal for goal in goals if any(math.isfinite(each.mean(goal.tag)) for each in settings)]
    return Sweep(results, settings, [each for each in axes if len(each.values) > 1], logged)


def axis(key: str, values: Sequence[Any], is_log: bool = False) -> Axis:
    """Make the axis of values; of positive numbers that are far apart, a logarithmic one.

    Args:
      is_log: it is logarithmic, however near its numbers are.
    """
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not is_number:
        texts = {str(value): value for value in values}
        return Axis(key, short(key), list(texts.values()), False, False)
    distinct = sorted(set(values))
    is_far = bool(distinct) and distinct[0] > 0 and distinct[-1] / distinct[0] >= DECADES
    return Axis(key, short(key), distinct, True, is_far or (is_log and distinct[0] > 0))
