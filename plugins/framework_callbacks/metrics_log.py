"""The true record of a run: one JSON object a line and one line a step, in `metrics.jsonl`."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from framework.api import Callback, Run, Summary
from framework.errors import writing


def metrics_log() -> Callback:
    """Every logged scalar, exactly, as a line of JSON for each step in the run folder's `metrics.jsonl`.

    A line is `{"step": 10, "train/loss": 0.25, …}`. JSON has no numbers that are not finite: they stand as the strings
    "NaN", "Infinity" and "-Infinity", so that Python's `float` and JavaScript's `Number` read every value. Each line
    is handed to the operating system as it comes, in one piece, so that a killed process leaves whole lines.
    """
    return MetricsLog()


class MetricsLog(Callback):
    """Appends a line a step. A resumed run first drops what the file holds beyond the step where it goes on."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._path = Path()
        self._line: dict[str, Any] = {}
        self._offset = 0  # where the last line begins
        self._end = 0  # where it ends

    def on_start(self, run: Run) -> None:
        self._path = path = run.directory / "metrics.jsonl"
        lines = list(_sound_lines(path, run.start_step)) if run.start_step > 0 and path.exists() else []
        with writing(path):
            _replace(path, b"".join(lines))
            self._file = FileIO(path, "r+b")
        self._line = json.loads(lines[-1]) if lines else {}
        self._offset, self._end = sum(map(len, lines[:-1])), sum(map(len, lines))

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._file is None:
            return
        if step != self._line.get("step"):
            self._line = {"step": step}
            self._offset = self._end
        self._line |= {tag: _json_number(number) for tag, number in scalars.items()}
        line = json.dumps(self._line, allow_nan=False).encode() + b"\n"
        # A longer line takes the place of the step's first one in one write: at no moment is there none.
        with writing(self._path):
            if os.pwrite(self._file.fileno(), line, self._offset) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            former, self._end = self._end, self._offset + len(line)
            if former > self._end:
                self._file.truncate(self._end)

    def on_end(self, summary: Summary) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _json_number(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _sound_lines(path: Path, last_step: int) -> Iterator[bytes]:
    """The lines of steps up to last_step; a killed run may have left half a line, which is no JSON object."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(step, int) and step <= last_step:
            yield line + b"\n"


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new."""
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
