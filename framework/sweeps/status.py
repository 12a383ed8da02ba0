"""The state of a sweep as its ledger has it, in a line, and point by point."""

from __future__ import annotations

import re
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from framework.console.output import shell_word
from framework.console.tables import narrowed, text_table
from framework.console.terminal import clipped
from framework.sweeps import folder as folders
from framework.sweeps.labels import label
from framework.sweeps.ledger import LEASE, OPEN, Ledger, Point, State

ORDER: tuple[State, ...] = ("done", "running", "waiting", "paused", "preempted", "lost", "failed", "pruned")


TAIL = 65536
"""Bytes at the end of a run's metrics that hold its last lines."""


class Seen(NamedTuple):
    """A sweep as it is, though the ledger may not know of a kill yet.

    Attributes:
      folder: of the sweep.
      points: a running one whose process is gone, or shows no life, is lost here.
      total: number of points of the search; 0 if it is open.
    """

    folder: Path
    points: list[Point]
    total: int

    @property
    def counts(self) -> Counter[str]:
        """Number of points by state."""
        return Counter(str(point.state) for point in self.points)

    @property
    def is_open(self) -> bool:
        """Tell whether there are points that nobody has ended."""
        counts = self.counts
        return any(counts[state] for state in ("running", *OPEN)) or self.total > len(self.points)


def seen(folder: Path, ledger: Ledger) -> Seen:
    """Look at a sweep. Steps are those of the records of its runs, where they go beyond the last evaluation."""
    points = [present(folder, point) for point in ledger.points()]
    return Seen(folder, points, int(ledger.facts().get("total") or 0))


def present(folder: Path, point: Point) -> Point:
    """Return a point as it is: one that runs and whose process is gone, or shows no life, is lost."""
    if point.state not in ("running", "preempted", "lost"):
        return point
    point = point._replace(step=max(point.step, _last_step(folder / point.directory)))
    gone = folders.is_gone(point.owner)
    if point.state == "running" and (gone or (gone is None and (point.beat or 0) < time.time() - LEASE)):
        reason = "its process is gone" if gone else f"no life for more than {LEASE:g} s"
        spent = max(0.0, (point.beat or 0) - (point.begun or 0))
        return point._replace(state="lost", reason=reason, seconds=point.seconds + spent)
    return point


def _last_step(directory: Path) -> int:
    """Return the step of the last whole line that a run has logged, or 0."""
    try:
        with (directory / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    found = (re.match(rb'\{"step": (\d+)', each) for each in reversed(lines))
    return next((int(each[1]) for each in found if each), 0)


def line(sweep: Seen) -> str:
    """Say how far a sweep is: "12 points: 5 done, 2 running, 5 waiting; driven by process 4711"."""
    folder, counts = sweep.folder, sweep.counts
    parts = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts.get(state))
    of = f" of {sweep.total}" if sweep.total > sum(counts.values()) else ""
    text = f"{sum(counts.values())}{of} points: {parts or 'none was begun'}"
    if folders.is_driven(folder):
        pid = folders.driver_of(folder)
        return f"{text}; driven by {f'process {pid}' if pid else 'another machine'}"
    return (
        f"{text}; nobody drives it{f', `framework sweep resume {shell_word(folder)}` goes on' if sweep.is_open else ''}"
    )


def table(sweep: Seen, width: int | None = None) -> str:
    """Return one line for each point, with its step, and what it last said.

    Where that is too wide for a terminal of so many columns, what a point said stands below its line.
    """
    now = time.time()
    rows = [["point", "state", "", "step", "attempts", "seconds", ""]]
    for point in sweep.points:
        spent = point.seconds + (now - point.begun if point.state == "running" and point.begun else 0.0)
        said = point.reason or " ".join(f"{tag} {value:.4g}" for tag, value in _few(point.scalars).items())
        state = str(point.state)
        rows.append(
            [
                str(point.number),
                state,
                label(point.parameters),
                str(point.step),
                str(point.attempts),
                f"{spent:.1f}",
                said,
            ]
        )
    right = (0, 3, 4, 5)
    whole = text_table(rows, right)
    if width is None or max(map(len, whole.splitlines())) <= width:
        return whole
    lines = text_table(narrowed([row[:-1] for row in rows], width, least=3), right).splitlines()
    indent = " " * (len(rows[0][0]) + 2)
    said = (textwrap.wrap(row[-1], width, initial_indent=indent, subsequent_indent=indent) for row in rows)
    return "\n".join(each for line, more in zip(lines, said, strict=True) for each in (clipped(line, width), *more))


def as_json(sweep: Seen) -> dict[str, Any]:
    """Return the state as plain values: counts, and each point."""
    names = ("number", "parameters", "state", "step", "attempts", "seconds", "scalars", "reason", "hash")
    points = [{name: getattr(point, name) for name in names} for point in sweep.points]
    facts = {"directory": str(sweep.folder), "driven": folders.is_driven(sweep.folder), "counts": sweep.counts}
    return {**facts, "points": points}


def _few(scalars: object) -> dict[str, float]:
    found = dict(scalars) if isinstance(scalars, dict) else {}
    return {tag: value for tag, value in found.items() if tag.startswith(("eval/", "test/")) and tag.count("/") == 1}
