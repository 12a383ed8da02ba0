"""The state of a sweep as its ledger has it, in a line, and point by point."""

from __future__ import annotations

import json
import time
from pathlib import Path

from framework.output import shell_word
from framework.sweeps import folder as folders
from framework.sweeps.ledger import Ledger, State
from framework.sweeps.space import label
from framework.tables import text_table

ORDER: tuple[State, ...] = ("done", "running", "waiting", "paused", "preempted", "lost", "failed", "pruned")


def line(folder: Path, ledger: Ledger) -> str:
    """Say how far a sweep is: "12 points: 5 done, 2 running, 5 waiting; driven by process 4711"."""
    counts = ledger.counts()
    parts = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts.get(state))
    total = ledger.facts().get("total") or 0
    of = f" of {total}" if total > sum(counts.values()) else ""
    text = f"{sum(counts.values())}{of} points: {parts or 'none was begun'}"
    if folders.is_driven(folder):
        pid = folders.driver_of(folder)
        return f"{text}; driven by {f'process {pid}' if pid else 'another machine'}"
    is_open = any(counts.get(state) for state in ("running", "waiting", "preempted", "lost")) or of
    return f"{text}; nobody drives it{f', `framework sweep resume {shell_word(folder)}` goes on' if is_open else ''}"


def table(ledger: Ledger) -> str:
    """Return one line for each point that is not just waiting, with its step, and what it last said."""
    now = time.time()
    rows = [["point", "", "state", "step", "attempts", "seconds", ""]]
    for point in ledger.points():
        spent = point.seconds + (now - point.begun if point.state == "running" and point.begun else 0.0)
        said = point.reason or " ".join(f"{tag} {value:.4g}" for tag, value in _few(point.scalars).items())
        state = str(point.state)
        rows.append(
            [
                str(point.number),
                label(point.parameters),
                state,
                str(point.step),
                str(point.attempts),
                f"{spent:.1f}",
                said,
            ]
        )
    return text_table(rows, right=(0, 3, 4, 5))


def as_json(folder: Path, ledger: Ledger) -> str:
    """Return the state as JSON: counts, and each point."""
    names = ("number", "parameters", "state", "step", "attempts", "seconds", "scalars", "reason", "hash")
    points = [{name: getattr(point, name) for name in names} for point in ledger.points()]
    facts = {"directory": str(folder), "driven": folders.is_driven(folder), "counts": ledger.counts()}
    return json.dumps({**facts, "points": points}, indent=2)


def _few(scalars: object) -> dict[str, float]:
    found = dict(scalars) if isinstance(scalars, dict) else {}
    return {tag: value for tag, value in found.items() if tag.startswith(("eval/", "test/")) and tag.count("/") == 1}
