"""The list of runs: status, metrics, time and folder, as a table or, where a table does not fit, as short blocks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framework_runs import layout
from framework_runs.naming import common, label, seed_of, shortened, status_of
from framework_runs.query import value_of
from framework_runs.reading import Run

SHOWN = 4
"""Metrics that are shown unless others are asked for."""

NAME, LABEL, LONGEST = 20, 44, 200
"""Least and most characters of a name on a terminal, and most of it elsewhere; what is longer is cut."""


class Fewer(NamedTuple):
    """Columns that a table does without, so that it fits."""

    facts: Sequence[str]
    metrics: int


FEWER = (Fewer((), 0), Fewer(("step",), 0), Fewer(("step",), 1), Fewer(("step", "time"), 1), Fewer(("step", "time"), 2))
"""Tables to try, the widest first."""


def table(runs: Sequence[Run], root: Path, keys: Sequence[str], width: int | None) -> str:
    """Return one row for each run.

    Args:
      root: from which folders are told.
      keys: of metrics or of the config.
      width: characters of a line; None cuts nothing.
    """
    keys = list(keys)
    places, names = [os.path.relpath(run.folder, root) for run in runs], labels(runs)
    for fewer in FEWER:
        shown = keys[: len(keys) - fewer.metrics]
        if keys and not shown:
            continue
        facts = [fact for fact in ("step", "time") if fact not in fewer.facts]
        rows = [["run", "status", *facts, *map(_short(shown), shown)]]
        for run, place in zip(runs, places, strict=True):
            own = {"step": str(run.step), "time": layout.duration(run.seconds)}
            values = (layout.number(value_of(run, key)) for key in shown)
            rows.append([place, status_of(run), *(own[fact] for fact in facts), *values])
        room = LONGEST if width is None else min(LABEL, width - max(map(len, layout.aligned(rows))) - 2)
        if room >= min(NAME, max(map(len, names))):
            cells = ["name", *(layout.cut(name, room) for name in names)]
            rows = [[*row[:2], cell, *row[2:]] for row, cell in zip(rows, cells, strict=True)]
            lines = layout.aligned(rows, range(3, len(rows[0])))
            return "\n".join([lines[0], *map(_painted, lines[1:], runs)])
    blocks = (_block(*each, keys, width or 0) for each in zip(runs, names, places, strict=True))
    return "\n".join(line for block in blocks for line in block)


def labels(runs: Sequence[Run]) -> list[str]:
    """Return names that leave out what all runs of an experiment have in common."""
    shared = common(runs)
    return [label(run, without=shared.get(str(run.record.get("name")), [])) for run in runs]


def columns(runs: Sequence[Run], asked: Sequence[str]) -> list[str]:
    """Return the metrics and keys of the config that a list was sorted or filtered by, and the usual metrics."""
    metrics = {tag for run in runs for tag in run.metrics}
    named = [key for key in asked if key in metrics or "." in key]
    return list(dict.fromkeys([*named, *usual(runs)]))[: max(SHOWN, len(named))]


def usual(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that most runs have: of evaluations and tests first, then the training loss."""
    counts = Counter(tag for run in runs for tag in run.metrics)
    counts = {tag: count for tag, count in counts.items() if tag.startswith(("eval/", "test/")) or tag == "train/loss"}
    order = ("eval/", "test/", "train/")
    tags = sorted(counts, key=lambda tag: (-counts[tag], order.index(tag[: tag.index("/") + 1]), tag))
    return [tag for tag in tags if not tag.rpartition("/")[2].isdecimal()][:SHOWN]


def as_json(run: Run) -> dict[str, Any]:
    """Return a run as `--json` shows it."""
    return {
        "folder": str(run.folder),
        "name": run.record.get("name"),
        "label": label(run),
        "seed": seed_of(run),
        "status": run.status,
        "debug": shortened(run),
        "step": run.step,
        "total_steps": run.total_steps,
        "started": run.started,
        "seconds": run.seconds,
        "overrides": run.record.get("overrides") or {},
        "metrics": run.metrics,
    }


def _short(keys: Sequence[str]) -> Any:
    """Return a function that shortens a key to its last word, where no other key ends with the same one."""
    lasts = Counter(key.rpartition(".")[2] for key in keys)
    return lambda key: key.rpartition(".")[2] if lasts[key.rpartition(".")[2]] == 1 else key


def _painted(line: str, run: Run) -> str:
    return line.replace(f"  {run.status}", "  " + layout.coloured(run.status, run.status), 1)


def _block(run: Run, name: str, place: str, keys: Sequence[str], width: int) -> list[str]:
    """Return a few short lines for a run, where a table is too wide."""
    facts = [status_of(run), f"{run.step} steps", layout.duration(run.seconds)]
    values = (f"{key} {layout.number(value)}" for key in keys if (value := value_of(run, key)) is not None)
    told = layout.wrapped([each for each in (*facts, *values) if each], width - 2)
    head = [layout.cut_left(place, width), f"  {layout.cut(name, width - 2)}"]
    return [*head, _painted(f"  {told[0]}", run), *(f"  {line}" for line in told[1:])]
