"""Means over the seeds of a point, as runs of their own, which `board` adds to those that it finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from framework.config.safe_load import load_json
from framework.records.history import MetricsFile
from framework_tensorboard.callback import Curves, by_member
from framework_tensorboard.constant import Varying
from framework_tensorboard.events import layout
from framework_tensorboard.names import FIRST, without_seed


class Seed(NamedTuple):
    """A run that is done, and whose seed was chosen.

    Attributes:
      point: name of the run without its seed.
      folder: of the run.
      record: content of its `run.json`.
    """

    point: str
    folder: Path
    record: Mapping[str, Any]


class Means:
    """Runs of TensorBoard with the means over seeds, between the lowest and the highest value of them."""

    def __init__(self, folder: Path) -> None:
        """Take the folder that TensorBoard reads."""
        self._folder = folder
        self._read: dict[Path, tuple[int, Seed | None]] = {}
        self._written: dict[str, list[Path]] = {}

    def look(self, runs: Iterable[Path]) -> None:
        """Write the mean of each point with several seeds that are done, anew once there are more of them.

        Args:
          runs: run folders.
        """
        points: dict[str, list[Seed]] = {}
        for run in runs:
            if (seed := self._seed(run)) is not None:
                points.setdefault(seed.point, []).append(seed)
        for point, seeds in points.items():
            folders = [seed.folder for seed in seeds]
            if len(seeds) > 1 and self._written.get(point) != folders:
                _write(self._folder / f"{point} mean of seeds", seeds)
                self._written[point] = folders

    def _seed(self, run: Path) -> Seed | None:
        """Read the record of a run if it has changed."""
        path = run / "run.json"
        try:
            changed = path.stat().st_mtime_ns
            if self._read.get(run, (0, None))[0] != changed:
                self._read[run] = changed, _seed_of(run, load_json(path))
        except (OSError, ValueError):  # as it is written
            return None
        return self._read[run][1]


def _seed_of(run: Path, record: Mapping[str, Any]) -> Seed | None:
    overrides = record.get("overrides") or {}
    if record.get("status") != "done" or record.get("members") or "seed" not in overrides:
        return None
    return Seed(without_seed(record["name"], overrides), run, record)


def _write(folder: Path, seeds: list[Seed]) -> None:
    """Write the steps and metrics that all seeds have."""
    first, *_ = (seed.record for seed in seeds)
    mute = {tag for tag, is_higher_better in (first.get("directions") or {}).items() if is_higher_better is None}
    columns = [_metrics(seed) for seed in seeds]
    curves = Curves(folder, 0, Varying(mute))
    curves.begin(0, [layout(["loss", *(first["config"].get("metrics") or {})], bands=True)])
    for step in sorted(reduce(set.intersection, map(set, columns))):
        each = [column[step] for column in columns]
        shared = [tag for tag in each[0] if all(tag in other for other in each)]
        scalars = {tag: fmean(one[tag] for one in each) for tag in shared}
        scalars |= {f"{tag}/{number}": one[tag] for number, one in enumerate(each) for tag in shared}
        curves.log(step, by_member(scalars, len(each), mute)[0])
    curves.end(0, [])


def _metrics(seed: Seed) -> dict[int, dict[str, float]]:
    """Return the metrics of splits by step."""
    records = MetricsFile(seed.folder, seed.record.get("id", "")).records()
    return {int(each["step"]): {tag: each[tag] for tag in each if tag.startswith(FIRST)} for each in records}
