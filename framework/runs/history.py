"""The history of a run's metrics: one JSON object a line and one line a step, in `metrics.jsonl`."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from framework.api import Callback, History
from framework.errors import writing


class MetricsFile(History):
    """Read and write `metrics.jsonl` in a run folder; of several processes, only process 0 writes.

    A line is `{"step": 10, "train/loss": 0.25, …}`. JSON has no numbers that are not finite: they are the strings
    "NaN", "Infinity" and "-Infinity", so that Python's `float` and JavaScript's `Number` read every value. Each line
    is handed to the operating system in one write, so that a killed process leaves whole lines.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "metrics.jsonl"
        self._last: dict[str, Any] = {}  # the last record
        self._start = self._end = 0  # its place in the file, in bytes

    def records(self, since: int = 0) -> Iterator[Mapping[str, float]]:
        """Yield the records of steps >= `since`; skip damaged lines, such as half a line of a killed process."""
        if self._path.exists():
            with self._path.open("rb") as file:
                for line in file:
                    if (record := _parsed(line)) and record["step"] >= since:
                        yield record

    def cut(self, step: int) -> dict[str, float]:
        """Drop the records beyond a step (all, for step 0), and go on after the others.

        Returns: the last value of each tag that is left.

        Raises: StorageError if the file cannot be written.
        """
        self._last, self._start, self._end, scalars = {}, 0, 0, {}
        draft = self._path.with_name(f"{self._path.name}.draft")
        with writing(self._path):
            with draft.open("wb") as file:
                for record in self.records() if step else ():
                    if record["step"] <= step:
                        self._last, self._start = dict(record), self._end
                        self._end += file.write(_line(record))
                        scalars |= record
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)  # a crash leaves the old content or the new
        return {tag: value for tag, value in scalars.items() if tag != "step"}

    def append(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add scalars to the record of a step, which must not be older than the last one.

        Raises: StorageError if the line cannot be written whole.
        """
        if step != self._last.get("step"):
            self._last, self._start = {"step": step}, self._end
        self._last |= scalars
        line = _line(self._last)
        with writing(self._path):
            # Opened by its path each time, so that a folder that was moved or deleted is noticed.
            file = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                # A longer line replaces the step's first one in one write, so that the step is never missing.
                if os.pwrite(file, line, self._start) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                former, self._end = self._end, self._start + len(line)
                if former > self._end:
                    os.ftruncate(file, self._end)
            finally:
                os.close(file)


class HistoryWriter(Callback):
    """The first callback of every run: write a record before any other callback sees its scalars, or ends the run."""

    def __init__(self, file: MetricsFile) -> None:
        self.file = file

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars."""
        self.file.append(step, scalars)


def _line(record: Mapping[str, Any]) -> bytes:
    # Python's own word for a number that is not finite, such as NaN, becomes a string.
    numbers = {tag: value if math.isfinite(value) else json.dumps(value) for tag, value in record.items()}
    return json.dumps(numbers, allow_nan=False).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line's record; None for a damaged one."""
    try:
        record = json.loads(line)
        if type(record["step"]) is int:
            return {tag: value if isinstance(value, int | float) else float(value) for tag, value in record.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return None
