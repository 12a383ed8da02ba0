"""Progress of a run on stderr: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

from framework.api import (
    Callback,
    Run,
    StatusLine,
    Summary,
    broken,
    clipped,
    columns_of,
    is_notebook,
    is_terminal,
    note,
    painted,
)
from framework.errors import ConfigError, printable
from framework_callbacks.live import UNSAID, Line
from framework_callbacks.notebook import NotebookProgress
from framework_callbacks.pace import Pace, metric_prefix
from framework_callbacks.parameters import parameter_table


def progress(seconds: float = 5.0) -> Callback:
    """Show the parameter table and progress on stderr: one live line on a terminal, plain lines elsewhere.

    Of points that a sweep trains in one process, a table is shown for the first one, and for each that differs.
    In a notebook a bar and the curve of the loss stand in the cell.

    Args:
      seconds: least time between two plain lines, besides those of evaluations and the last step.

    Raises: ConfigError if seconds is negative.
    """
    if not seconds >= 0:
        raise ConfigError(f"progress: seconds is {seconds}, expected 0 (a line for every logged step) or more.")
    if is_notebook():
        return NotebookProgress()
    return LiveProgress() if is_terminal(sys.stderr) else PlainProgress(seconds)


def show_table(run: Run, width: int) -> None:
    """Show the parameter table on stderr, in lines of at most `width` letters, unless a point before had the same.

    The log of the run has it in any case.
    """
    table = parameter_table(run.parameters, width)
    note("\n".join(["parameters", *table]))
    if not run.is_known:
        print(*(clipped(line, width) for line in table), sep="\n", file=sys.stderr, flush=True)


NO_SPLITS = ("train", "train_step", "perf", "probe", "progress")
"""Beginnings of tags that are of no evaluation."""


def tell(line: str) -> None:
    """Write a line to stderr, and into the log of the run."""
    print(line, file=sys.stderr, flush=True)
    note(line)


class PlainProgress(Callback):
    """Progress as lines without control codes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._printed = -math.inf
        self._held = ""  # the last line, while its time has not come

    def on_start(self, run: Run) -> None:
        self._pace = Pace(run)
        show_table(run, 80)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._pace.update(step, scalars)
        place = f"{self._pace.epoch(step)}  step {self._pace.count(step)}"
        if numbers := split_numbers(scalars, "train"):
            rate = "" if self._pace.rate is None else f"{metric_prefix(self._pace.rate)} examples/s"
            self._held = "  ".join([place, *numbers, *filter(None, [rate, self._pace.left()])])
        if step >= self._pace.total or time.monotonic() - self._printed >= self._seconds:
            self._release()
        for line in evaluations(scalars):
            tell(f"{place}  {line}")

    def on_end(self, summary: Summary) -> None:
        self._release()

    def _release(self) -> None:
        if self._held:
            tell(self._held)
            self._held, self._printed = "", time.monotonic()


class LiveProgress(Callback):
    """Progress as one line at the end of a terminal, with evaluations above it; the best values so far are green."""

    def __init__(self) -> None:
        self._status: StatusLine | None = None

    def on_start(self, run: Run) -> None:
        self._line, self._best = Line(run, Pace(run)), Best(run)
        self._width = columns_of(sys.stderr)
        show_table(run, min(self._width, 80))
        self._status = StatusLine(self._line.text)
        self._status.start()

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._line.update(step, scalars)
        for line in self._evaluations(step, scalars):
            print(line, file=sys.stderr, flush=True)
        for line in evaluations(scalars):
            note(f"{self._line.pace.epoch(step)}  step {self._line.pace.count(step)}  {line}")

    def on_end(self, summary: Summary) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _evaluations(self, step: int, scalars: Mapping[str, float]) -> list[str]:
        """Return the lines of each split that was evaluated, broken at the terminal's width."""
        pace, lines = self._line.pace, []
        for split, numbers in evaluated(scalars).items():
            shown = [
                painted(text, "best", sys.stderr) if step > 0 and self._best.is_best(tag, scalars[tag]) else text
                for tag, text in numbers.items()
            ]
            place = [pace.epoch(step), f"step {pace.count(step)}", printable(split)]
            lines += broken([*place, *shown], columns_of(sys.stderr))
        return lines


class Best:
    """The best value of each tag whose direction is known."""

    def __init__(self, run: Run) -> None:
        """Begin with what earlier processes of the run have logged."""
        self._directions, self._values = run.directions, dict[str, float]()
        for record in run.history.records(since=1) if run.start_step else ():
            for tag, value in record.items():
                self.is_best(tag, value)

    def is_best(self, tag: str, value: float) -> bool:
        """Take note of a value, and tell whether it is better than all before."""
        if (high := self._directions.get(tag)) is None or math.isnan(value):
            return False
        before = self._values.get(tag)
        if before is not None and (value <= before if high else value >= before):
            return False
        self._values[tag] = value
        return True


def split_numbers(scalars: Mapping[str, float], split: str) -> list[str]:
    """Return loss and metrics of a split, such as "loss 0.25", without the parts of metrics of many numbers."""
    return list(numbers_of(scalars, split).values())


def numbers_of(scalars: Mapping[str, float], split: str) -> dict[str, str]:
    """Return loss and metrics of a split by tag, such as "loss 0.25", the loss first."""
    tags = [tag for tag in scalars if tag.startswith(f"{split}/") and tag.count("/") == 1]
    unsaid = {f"train/{name}" for name in UNSAID}
    tags = sorted((tag for tag in tags if tag not in unsaid), key=lambda tag: not tag.endswith("/loss"))
    return {tag: f"{printable(tag.partition('/')[2])} {scalars[tag]:.4g}" for tag in tags}


def evaluated(scalars: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """Return the numbers of each split that was evaluated."""
    splits = dict.fromkeys(tag.partition("/")[0] for tag in scalars)
    numbers = {split: numbers_of(scalars, split) for split in splits if split not in NO_SPLITS}
    return {split: told for split, told in numbers.items() if told}


def evaluations(scalars: Mapping[str, float]) -> list[str]:
    """Return one line for each split that was evaluated."""
    return [f"{printable(split)}: {'  '.join(told.values())}" for split, told in evaluated(scalars).items()]
