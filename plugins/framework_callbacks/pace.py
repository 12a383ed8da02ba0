"""Position and speed of a run, and numbers in few letters."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from framework.api import Run


class Pace:
    """Position and speed of a run, measured from the first logged step on, which leaves compiling out."""

    def __init__(self, run: Run) -> None:
        self.total = run.total_steps
        self._steps_per_epoch = max(run.steps_per_epoch, 1)
        self._start: tuple[int, float] | None = None
        self._end = math.nan
        self.rate: float | None = None  # examples per second

    def update(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take note of a logged step, but not of an evaluation before any."""
        now = time.monotonic()
        self.rate = scalars.get("perf/examples_per_second", self.rate)
        if self._start is None and step > 0:
            self._start = (step, now)
        first, since = self._start or (step, now)
        is_known = first < step < self.total
        self._end = now + (now - since) / (step - first) * (self.total - step) if is_known else math.nan

    def left(self) -> str:
        """Return the time left, such as "0:31 left"; "" if it is not known."""
        return "" if math.isnan(self._end) else f"{clock(max(self._end - time.monotonic(), 0))} left"

    def count(self, step: int) -> str:
        return f"{step:>{len(str(self.total))}}/{self.total}"

    def epoch(self, step: int) -> str:
        epochs = math.ceil(self.total / self._steps_per_epoch)
        at, last = max(math.ceil(step / self._steps_per_epoch), 1), max(epochs, 1)
        return f"epoch {at:>{len(str(last))}}/{last}"


def metric_prefix(number: float) -> str:
    """Return a number with three digits and a prefix: 12345 is "12.3k"."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{prefix}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds: "0:31", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
