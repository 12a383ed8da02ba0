"""Progress of a run on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from framework.api import Callback, Run, Summary
from framework.errors import ConfigError, printable
from framework_callbacks.parameters import parameter_table

DRAW_SECONDS = 0.1
"""Least time between two drawings of the bar; each takes about half a millisecond from the loop."""


def progress(seconds: float = 5.0) -> Callback:
    """Show the parameter table and progress on stderr: a live bar on a terminal, plain lines elsewhere.

    Args:
      seconds: least time between two plain lines, besides those of evaluations and the last step.

    Raises: ConfigError if seconds is negative.
    """
    if not seconds >= 0:
        raise ConfigError(f"progress: seconds is {seconds}, expected 0 (a line for every logged step) or more.")
    live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return LiveProgress() if live else PlainProgress(seconds)


class PlainProgress(Callback):
    """Progress as lines without control codes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._printed = -math.inf
        self._held = ""  # the last line, while its time has not come

    def on_start(self, run: Run) -> None:
        self._pace = Pace(run)
        print(*parameter_table(run.parameters), sep="\n", file=sys.stderr, flush=True)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        rate = self._pace.update(step, scalars)
        place = f"{self._pace.epoch(step)}  step {self._pace.count(step)}"
        if numbers := split_numbers(scalars, "train"):
            self._held = "  ".join([place, *numbers, *rate])
        if step >= self._pace.total or time.monotonic() - self._printed >= self._seconds:
            self._release()
        for line in evaluations(scalars):
            print(f"{place}  {line}", file=sys.stderr, flush=True)

    def on_end(self, summary: Summary) -> None:
        self._release()

    def _release(self) -> None:
        if self._held:
            print(self._held, file=sys.stderr, flush=True)
            self._held, self._printed = "", time.monotonic()


class LiveProgress(Callback):
    """Progress as a bar, drawn by the loop's own thread when a number changes: another thread would slow the loop."""

    def __init__(self) -> None:
        self._live: Any = None
        self._drawn = -math.inf
        self._step = 0
        self._rate: list[str] = []
        self._numbers: list[str] = []

    def on_start(self, run: Run) -> None:
        from rich.console import Console
        from rich.live import Live

        self._pace, self._step = Pace(run), run.start_step
        console = Console(stderr=True, highlight=False, markup=False)
        console.print(*parameter_table(run.parameters), sep="\n", no_wrap=True, overflow="ellipsis")
        self._live = Live(self._picture(), console=console, auto_refresh=False)
        self._live.start(refresh=True)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._step, self._rate = step, self._pace.update(step, scalars)
        self._numbers = split_numbers(scalars, "train") or self._numbers
        for line in evaluations(scalars):
            self._live.console.print(f"{self._pace.epoch(step)}  step {self._pace.count(step)}  {line}")
        if time.monotonic() - self._drawn >= DRAW_SECONDS:
            self._live.update(self._picture(), refresh=True)
            self._drawn = time.monotonic()

    def on_end(self, summary: Summary) -> None:
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
            self._live.stop()
            self._live = None

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        bar = ProgressBar(total=self._pace.total, completed=self._step)
        line.add_row(self._pace.epoch(self._step), bar, "  ".join([self._pace.count(self._step), *self._rate]))
        return Group(line, Text("  ".join(self._numbers), no_wrap=True, overflow="ellipsis"))


class Pace:
    """Position and speed of a run, measured from the first logged step on, which leaves compiling out."""

    def __init__(self, run: Run) -> None:
        self.total = run.total_steps
        self._steps_per_epoch = max(run.steps_per_epoch, 1)
        self._start: tuple[int, float] | None = None
        self._rate: list[str] = []

    def update(self, step: int, scalars: Mapping[str, float]) -> list[str]:
        """Return examples per second and time left, as far as they are known."""
        now = time.monotonic()
        if (rate := scalars.get("perf/examples_per_second")) is not None:
            self._rate = [f"{metric_prefix(rate)} examples/s"]
        if self._start is None:
            self._start = (step, now)
        first, since = self._start
        if not first < step < self.total:
            return self._rate
        return [*self._rate, f"{clock((now - since) / (step - first) * (self.total - step))} left"]

    def count(self, step: int) -> str:
        return f"{step:>{len(str(self.total))}}/{self.total}"

    def epoch(self, step: int) -> str:
        epochs = math.ceil(self.total / self._steps_per_epoch)
        return f"epoch {max(math.ceil(step / self._steps_per_epoch), 1)}/{max(epochs, 1)}"


def split_numbers(scalars: Mapping[str, float], split: str) -> list[str]:
    """Return loss and metrics of a split, such as "loss 0.25", without the parts of metrics of many numbers."""
    tags = [tag for tag in scalars if tag.startswith(f"{split}/") and tag.count("/") == 1]
    return [f"{printable(tag.partition('/')[2])} {scalars[tag]:.4g}" for tag in tags if tag != "train/learning_rate"]


def evaluations(scalars: Mapping[str, float]) -> list[str]:
    """Return one line for each split that was evaluated."""
    splits = dict.fromkeys(tag.partition("/")[0] for tag in scalars)
    numbers = {split: split_numbers(scalars, split) for split in splits if split not in ("train", "perf")}
    return [f"{printable(split)}: {'  '.join(told)}" for split, told in numbers.items() if told]


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
