"""The report of `verify-resume`: figures, the rows of a table, and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framework.config.sizes import in_words
from framework.console.tables import text_table
from framework.console.terminal import fitted
from framework.errors import DifferenceError
from framework_verify import comparing, verdict
from framework_verify.comparing import Row
from framework_verify.trail import Attempt, Parting
from framework_verify.verdict import Verdict
from framework_verify.witness import saved_state


class Report(NamedTuple):
    """The result of a comparison of two runs.

    Attributes:
      rows: the differences; empty if the runs are the same.
      verdict: the cause of the differences, or None.
      figures: numbers of what was done and compared, by name.
      notes: parts that were not compared, and why.
      folder: the runs, kept if they differ.
    """

    rows: tuple[Row, ...]
    verdict: Verdict | None
    figures: Mapping[str, str]
    notes: tuple[str, ...]
    folder: Path | None

    def check(self) -> None:
        """Return if the runs are the same.

        Raises: DifferenceError that says where to look.
        """
        if self.verdict is not None:
            kind, certainty, because, suspects = self.verdict
            look = f" Look at {', '.join(suspects)}." if suspects else ""
            raise DifferenceError(f"{kind} ({certainty}): {because}.{look} Both runs are kept in {self.folder}.")


def figures_of(work: Path, straight: Attempt, killed: Sequence[Attempt]) -> dict[str, str]:
    """Say what was compared, and found to be the same."""
    last = max(straight.states)
    leaves = straight.states[last]
    folder = work / "straight"
    kills = [step for attempt in killed for step in attempt.kills]
    resumed = listed([attempt.start for attempt in killed[1:]])
    size = sum(size for state in straight.states.values() for _, size in state.values())
    return {
        "steps": str(last),
        "killed at": listed(kills),
        "resumed at": resumed,
        "state": f"{len(leaves)} leaves at {len(straight.states)} steps ({in_words(size)})",
        "batches": str(len(straight.batches)),
        "metrics.jsonl": f"{len(comparing.lines(folder))} lines",
        "checkpoints": f"{len(comparing.kept(folder))} kept",
        "other files": "run.json" + (f" and {others} more" if (others := len(comparing.files(folder))) else ""),
    }


def rows_of(
    work: Path, found: Parting, exact: Parting | None, plugins: verdict.Plugins, is_averaged: bool
) -> list[Row]:
    """Tabulate the differences within the steps.

    Args:
      work: folder of the runs.
      found: where the runs part, as checkpoints showed.
      exact: the same, after a look at each step; None if it was not found again.
      plugins: the plugins of the run.
      is_averaged: whether parameters are averaged (`ema`), beside the optimizer's state.
    """
    at, rows = exact or found, []
    if at.arrays:
        rows.append(Row("data", "start", "other training examples in memory"))
    if at.batch:
        twin = "a batch of its own" if at.batch.twin is None else f"the batch of step {at.batch.twin}"
        rows.append(Row("batches", f"step {at.batch.step}", twin))
    if at.state is not None:
        first = at.leaves[0]
        how = "" if exact is None else _how_far(work, exact)
        text = f"{len(at.leaves)} leaves, first {first}{how}, kept by {verdict.owner(first, plugins, is_averaged)}"
        rows.append(Row("state", f"step {at.state}", text))
    if at.tags:
        rows.append(Row("log", f"step {at.log if at.state is None else at.state}", ", ".join(at.tags)))
    rows += [Row(f"batches of {split}", "eval", "others") for split in at.splits]
    return rows


def _how_far(work: Path, found: Parting) -> str:
    """Say how many elements of the first leaf differ, and by how much at most, if both states were kept."""
    assert found.state is not None
    paths = [
        saved_state(work / "traced-straight.jsonl", 0, found.state),
        saved_state(work / "traced-killed.jsonl", found.attempt, found.state),
    ]
    if not all(path.exists() for path in paths):
        return ""
    left, right = (np.load(path)[found.leaves[0]] for path in paths)
    if left.shape != right.shape:
        return f" ({left.shape} and {right.shape})"
    far = np.abs(left.astype(np.float64) - right.astype(np.float64)).max() if left.size else 0
    return f" ({int((left != right).sum())} of {left.size} elements, by up to {far:.3g})"


def text(report: Report, width: int | None = None) -> str:
    """Write the report as tables, no wider than a terminal of so many columns, if there is one."""
    head = "different" if report.rows else "same: killed and resumed, the run is bit for bit the one left alone"
    parts = [fitted(head, width)]
    if report.figures:
        parts.append(text_table(list(report.figures.items()), width=width))
    if report.rows:
        parts.append(text_table([("in", "at", "the run left alone, and the resumed one"), *report.rows], width=width))
    return "\n".join([*parts, *(fitted(note, width) for note in report.notes)])


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values."""
    return {
        "verdict": "different" if report.rows else "same",
        "figures": report.figures,
        "differences": list(report.rows),
        "cause": report.verdict,
        "notes": list(report.notes),
        "folder": report.folder,
    }


def listed(numbers: Sequence[int]) -> str:
    """Write numbers as "3, 8 and 21"."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
