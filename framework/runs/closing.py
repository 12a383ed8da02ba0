"""The closing summary of a run: best and last values, where the time went, and what can be done next."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from framework.checkpoints import folder
from framework.config.sizes import in_words
from framework.console.output import FOR_THE_FILE, shell_word
from framework.console.terminal import broken, columns_of, command_lines, is_terminal
from framework.ensembles import members
from framework.ensembles.endings import is_of_member
from framework.experiment import Experiment
from framework.records.folder import way_on
from framework.records.history import MetricsFile
from framework.records.logs import LOGGER
from framework.records.record import RunRecord
from framework.tags import NO_METRICS, SPEED
from framework.training import compiles
from framework.training.stepper import is_to_go_on
from framework.training.times import duration, largest_parts

HIDDEN = (*NO_METRICS, "train_step/")
"""Beginnings of tags that are many, and say little by their last value."""

ROWS = 24
"""Largest number of rows; metrics of many numbers have more."""

LABEL = 12
"""Columns of the words before a line."""


def summarise(record: RunRecord, experiment: Experiment) -> None:
    """Log how a run ended, its metrics, the table of its members, its costs, and where to go from there.

    The console shows nothing of it, but for warnings, where a sweep says in one line how the run ended.
    """
    width, directory = columns_of(sys.stderr), record.directory
    terminal = width if is_terminal(sys.stderr) else None
    history = MetricsFile(directory, record.id)
    best, speed = survey(history.records(), experiment.directions)
    rows = rows_of(record.metrics or {}, best, *([is_of_member] if record.members else []))
    lines = [*_ended(record), *table(rows)]
    lines += members.table(record.members) if record.members else []
    for label, pieces in _costs(record, experiment, speed).items():
        for place, line in enumerate(broken(pieces, width - LABEL)):
            lines.append(f"{label + ':' if place == 0 else '':<{LABEL}}{line.strip()}")
    lines += _labelled("run folder", str(directory), terminal)
    lines += [line for label, command in _next(record).items() for line in _labelled(label, command, terminal)]
    LOGGER.info("\n".join(lines), extra=FOR_THE_FILE if experiment.is_reported else None)
    for warning in record.warnings or []:
        LOGGER.warning(warning)


def survey(
    records: Iterable[Mapping[str, float]], directions: Mapping[str, bool | None]
) -> tuple[dict[str, tuple[float, int]], float | None]:
    """Find the best values in a history; those of the untrained model, at step 0, are none.

    Args:
      records: one for each step.
      directions: for each tag, whether high values are good; None where it is not known.

    Returns: best value and its step by tag, the first of equal ones; and examples a second on the whole, which is None
      if that was never logged.
    """
    best: dict[str, tuple[float, int]] = {}
    speeds: list[float] = []
    for each in records:
        for tag, value in each.items():
            if tag == SPEED:
                speeds.append(value)
            if (is_high_good := directions.get(tag)) is None or math.isnan(value) or each["step"] == 0:
                continue
            sign = 1 if is_high_good else -1
            if tag not in best or sign * value > sign * best[tag][0]:
                best[tag] = value, int(each["step"])
    # Intervals have equally many examples, so that their times are averaged.
    return best, 1 / float(np.mean(1 / np.asarray(speeds))) if speeds and min(speeds) > 0 else None


def rows_of(
    metrics: Mapping[str, float],
    best: Mapping[str, tuple[float, int]],
    is_hidden: Callable[[str, Mapping[str, float]], bool] = lambda tag, metrics: False,
) -> list[list[str]]:
    """Return the rows of a table of last and best values, the training loss first, with the step of the best.

    Args:
      metrics: the last value of each tag.
      best: of `survey`.
      is_hidden: tells which tags to leave out besides those of `HIDDEN`.
    """
    unsaid = (*HIDDEN, "train/learning_rate", "train/live_members")  # members have a table of their own
    tags = [tag for tag, value in metrics.items() if np.isscalar(value) and not tag.startswith(unsaid)]
    rows = [["", "last", "best", "step"]]
    for tag in sorted((tag for tag in tags if not is_hidden(tag, metrics)), key=_place):
        value, step = best.get(tag, (None, 0))
        rows.append([tag, f"{metrics[tag]:.4g}", *(["", ""] if value is None else [f"{value:.4g}", str(step)])])
    return rows


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows, of which the first is a heading and `ROWS` more are shown; [] without any but the first."""
    if len(rows) < 2:
        return []
    shown, hidden = rows[: ROWS + 1], len(rows) - ROWS - 1
    first, *others = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for name, *cells in shown:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True)]
        lines.append("  ".join([f"{name:<{first}}", *padded]).rstrip())
    return [*lines, *([f"… {hidden} more in metrics.jsonl"] if hidden > 0 else [])]


def _place(tag: str) -> tuple[int, bool, int]:
    """Return the place of a tag in a table: by its split, the loss first."""
    splits = ("train", "eval", "test")
    split = tag.partition("/")[0]
    return splits.index(split) if split in splits else len(splits), not tag.endswith("/loss"), tag.count("/")


def _ended(record: RunRecord) -> list[str]:
    ended = f"stopped early: {record.reason}" if record.reason else "done"
    if is_to_go_on(record.reason):
        ended += f" at step {record.step}; `{way_on(record.directory)}` goes on from there"
    return [ended]


def _costs(record: RunRecord, experiment: Experiment, speed: float | None) -> dict[str, list[str]]:
    """Return, by label, how long the run took, where that went, and what it used."""
    start, seconds = record.starts[-1], record.seconds or 0.0
    whole = record.total_seconds or seconds
    took = [duration(seconds)] + ([f"{duration(whole)} over all starts"] if len(record.starts) > 1 else [])
    took += [f"{speed:,.0f} examples/s"] if speed is not None else []
    memory = [f"{in_words(start['peak_memory_mib'] << 20)} at most"] if start.get("peak_memory_mib") else []
    if on_device := start.get("peak_device_memory_mib"):
        memory.append(f"{in_words(max(on_device) << 20)} on a device")
    devices = f"{experiment.devices} of {len(start['devices'])} × {start['device_kind']}"
    spent, compiled = largest_parts(record.times or {}), compiles.in_words(record.compiles or {})
    found = {"took": took, "of that": spent, "compiled": compiled, "memory": memory, "devices": [devices]}
    return {label: pieces for label, pieces in found.items() if pieces}


def _labelled(label: str, command: str, width: int | None) -> list[str]:
    """Write a command or a path beside its label, or below where it is too long for a terminal of so many columns."""
    line = f"{label + ':':<{LABEL}}{command}"
    if width is None or len(line) <= width:
        return [line]
    return [f"{label}:", *(f"  {each}" for each in command_lines(command, width - 2))]


def _next(record: RunRecord) -> dict[str, str]:
    """Return the commands that go on from a run, by label."""
    directory, place, commands = record.directory, shell_word(record.directory), {}
    if next(directory.rglob("events.out.tfevents*"), None) is not None:
        commands["curves"] = f"framework board {shell_word(directory.parent)}"
    if folder.steps(directory / "checkpoints"):
        commands["evaluate"] = f"framework evaluate {place}"
        more = "" if is_to_go_on(record.reason) else f" train.steps={2 * record.total_steps}"
        commands["train on"] = f"framework resume {place}{more}"
    return commands
