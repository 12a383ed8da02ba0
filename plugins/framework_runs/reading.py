"""Run folders as they are read: record, metrics and status, without JAX, and whatever state a run is in."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from framework.config.safe_load import load_json
from framework.errors import StorageError
from framework.keys import flat
from framework.records.neighbours import RUNS, refusal
from framework.sweeps.folder import GROUPS, JOURNAL, LEDGER

Series = list[tuple[int, float]]
"""Values of one tag by step, oldest first."""

LOW = ("loss", "error", "mse", "mae", "rmse", "perplexity", "seconds")
HIGH = ("accuracy", "auc", "f1", "r2", "return", "examples_per_second")
"""Last words of tags whose direction is known, for records that do not say it."""

TYPES: dict[type | tuple[type, ...], tuple[str, ...]] = {
    str: ("name", "status", "reason", "started"),
    int: ("step", "total_steps"),
    (int, float): ("seconds", "total_seconds"),
    list: ("members", "starts", "warnings"),
    dict: ("overrides", "metrics", "directions", "versions", "plugins", "packages", "facts"),
}
"""Types of fields of a record, any of which may be null or missing."""


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
      folder: as it was given or found.
      record: the content of `run.json`.
    """

    folder: Path
    record: Mapping[str, Any]

    @cached_property
    def rows(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl` as numbers, with "time"; damaged lines are left out."""
        path = self.folder / "metrics.jsonl"
        try:
            lines = path.read_bytes().splitlines() if path.is_file() else []  # a pipe would wait for a writer
        except OSError:
            return []
        return [row for row in map(_row, lines) if row is not None]

    @cached_property
    def series(self) -> dict[str, Series]:
        """Values by tag, in the order in which tags were first logged."""
        found: dict[str, Series] = {}
        for row in self.rows:
            for tag, value in row.items():
                if tag not in ("step", "time"):
                    found.setdefault(tag, []).append((int(row["step"]), value))
        return found

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of each tag; of a run that has not ended, as far as it was logged."""
        recorded = self.record.get("metrics")
        if isinstance(recorded, dict):
            return {str(tag): float(value) for tag, value in recorded.items() if isinstance(value, int | float)}
        return {tag: values[-1][1] for tag, values in self.series.items()}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The values of the config by dotted key."""
        return flat(self.record["config"])

    @cached_property
    def status(self) -> str:
        """The recorded status; "killed" for a run that says it is running, and whose lock nobody on this host holds."""
        status = str(self.record.get("status") or "unknown")
        return "killed" if status in ("running", "ending") and self._is_left() else status

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """One entry for each process that worked on the run; none in records of older versions."""
        return [each for each in self.record.get("starts") or () if isinstance(each, dict)]

    @property
    def step(self) -> int:
        """The last step that is recorded or logged."""
        recorded = self.record.get("step")
        return recorded if isinstance(recorded, int) else int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def total_steps(self) -> int:
        """The step at which the run ends."""
        return int(self.record.get("total_steps") or 0)

    @property
    def started(self) -> str:
        """The time at which the run began, such as "2026-01-01T12:00:00+0000"; "" if it is not known."""
        return str(self.record.get("started") or "")

    @property
    def seconds(self) -> float | None:
        """The time that all processes of the run took; of one that goes on, until now."""
        total = self.record.get("total_seconds") or self.record.get("seconds")
        if self.status in ("running", "ending") and self.starts:
            began = clock(self.starts[-1].get("started"))
            total = sum(float(each.get("seconds") or 0) for each in self.starts) + max(0, time.time() - (began or 0))
        elif self.status == "killed" and total is None and self.rows and "time" in self.rows[-1]:
            began = clock(self.started)
            total = None if began is None else max(0.0, self.rows[-1]["time"] - began)
        return None if total is None else float(total)

    @property
    def members(self) -> list[Mapping[str, Any]]:
        """Values and last metrics of each member that the run trains side by side."""
        return [each for each in self.record.get("members") or () if isinstance(each, dict)]

    def is_high_better(self, tag: str) -> bool | None:
        """Tell which way a metric is better, by the record or by the last word of its name; None if neither says so."""
        recorded = self.record.get("directions")
        if isinstance(recorded, dict) and isinstance(recorded.get(tag), bool):
            return recorded[tag]
        words = tag.rpartition("/")[2]
        return True if words.endswith(HIGH) else False if words.endswith(LOW) else None

    def best(self, tag: str) -> tuple[int, float] | None:
        """Return step and value of the best value of a metric after the first step.

        Returns: None if it has no direction or no finite value.
        """
        is_high = self.is_high_better(tag)
        values = [(step, value) for step, value in self.series.get(tag, ()) if step > 0 and math.isfinite(value)]
        if is_high is None or not values:
            return None
        return (max if is_high else min)(values, key=lambda point: point[1])

    def _is_left(self) -> bool:
        """Tell whether no process of this host holds the run's lock."""
        if not self.starts or self.starts[-1].get("host") != platform.node():
            return False
        try:
            found, locks = (self.folder / "lock").stat(), Path("/proc/locks").read_text()
        except OSError:
            return False
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino} "
        return not any(place in line and "FLOCK" in line for line in locks.splitlines())


def read(folder: Path) -> Run:
    """Read a run folder.

    Raises: StorageError if its record cannot be read.
    """
    try:
        record = load_json(folder / "run.json")
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise ValueError("it is not complete")
        for kind, names in TYPES.items():
            for name in names:
                if record.get(name) is not None and not isinstance(record[name], kind):
                    raise ValueError(f"its '{name}' is {str(record[name])[:40]!r}")
    except (FileNotFoundError, NotADirectoryError):
        raise refusal(folder) from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder} is not a run folder: its run.json cannot be read ({error}).") from error
    return Run(folder, record)


def find(places: Iterable[Path]) -> tuple[list[Run], list[StorageError]]:
    """Read run folders and all runs below other folders, oldest first; each once.

    The programs that train several points of a sweep at once are left out, unless their own folder is a place.

    Args:
      places: folders.

    Returns: the runs, and an error for each folder whose record cannot be read.

    Raises: StorageError if a place is no folder.
    """
    runs: dict[str, Run] = {}
    broken: list[StorageError] = []
    for place in places:
        if not place.is_dir():
            raise refusal(place, RUNS)
        for folder, folders, files in os.walk(place):
            folders.sort()
            if GROUPS in folders and {LEDGER, JOURNAL} & set(files):
                folders.remove(GROUPS)  # programs of several points, each of which has a run folder of its own
            if "run.json" in files:
                folders.clear()  # what lies in a run folder is the run's own
                try:
                    runs.setdefault(os.path.realpath(folder), read(Path(folder)))
                except StorageError as error:
                    broken.append(error)
    return sorted(runs.values(), key=lambda run: (run.started, str(run.folder))), broken


def clock(text: object) -> float | None:
    """Return the seconds since 1970 of a time as records have it; None if it is none."""
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None


def _row(line: bytes) -> dict[str, float] | None:
    try:
        found = json.loads(line)
        row = {str(tag): float(value) for tag, value in found.items() if tag != "crc32"}
        return row if math.isfinite(row["step"]) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
