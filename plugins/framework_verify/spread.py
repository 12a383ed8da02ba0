"""The spread of a run's last metrics over runs that differ from it in their seed alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from framework.errors import FrameworkError
from framework.keys import flat
from framework.records.record import RunRecord, read_record

FEWEST = 3
"""Seeds from which a range says more than a tolerance."""

PLACES = ("run.", "seed")
"""Beginnings of keys in which runs of one config differ."""


class Spread(NamedTuple):
    """The range of each last metric.

    Attributes:
      seeds: the number of runs, with the one that they are siblings of.
      ranges: lowest and highest value, by tag.
    """

    seeds: int
    ranges: Mapping[str, tuple[float, float]]

    def outside(self, metrics: Mapping[str, float]) -> str:
        """Describe the first metric that is outside of its range or missing; "" if all are inside."""
        for tag, (low, high) in self.ranges.items():
            if tag not in metrics or not low <= metrics[tag] <= high:
                return f"{tag} is {metrics.get(tag)}, outside of {low:.6g} to {high:.6g}"
        return ""


def spread_of(record: RunRecord) -> Spread | None:
    """Find the finished runs beside a run whose configs differ in the seed alone.

    Returns: None if there are fewer than three seeds, with the run's own.
    """
    by_seed = {record.seed: record}
    for path in sorted(record.directory.parent.glob("*/run.json")):
        try:
            other = read_record(path.parent)
        except FrameworkError:  # a damaged record is no sibling
            continue
        if other.status == record.status and _config(other) == _config(record):
            by_seed.setdefault(other.seed, other)
    if len(by_seed) < FEWEST:
        return None
    found = [each.metrics or {} for each in by_seed.values()]
    tags = [tag for tag in record.metrics or {} if not tag.startswith(("perf/", "progress/"))]
    columns = {tag: [float(metrics[tag]) for metrics in found if tag in metrics] for tag in tags}
    return Spread(len(by_seed), {tag: (min(column), max(column)) for tag, column in columns.items()})


def _config(record: RunRecord) -> dict[str, object]:
    return {key: value for key, value in flat(record.config).items() if not key.startswith(PLACES)}
