"""A stopwatch callback: it notes the time of each window. The metadata beside this file register it as a plugin."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from framework.api import Callback, Run, Summary


def stopwatch() -> Callback:
    """Write (step, seconds on the system's monotonic clock) of the log records between the ends to `stopwatch.json`."""
    return Stopwatch()


class Stopwatch(Callback):
    """Notes the time of each `on_log`.

    The loop reads a window's metrics after it dispatched the next one, always equally far behind. So the time between
    two records is that of the steps between them. The last record waits for an evaluation and is left out, and so is an
    evaluation before the first step.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[int, float]] = []
        self._path = Path()
        self._last = 0

    def on_start(self, run: Run) -> None:
        """Note where to write."""
        self._path, self._last = run.directory / "stopwatch.json", run.total_steps

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note the time."""
        if 0 < step < self._last:
            self._marks.append((step, time.monotonic()))

    def on_end(self, summary: Summary) -> None:
        """Write."""
        self._path.write_text(json.dumps(self._marks))
