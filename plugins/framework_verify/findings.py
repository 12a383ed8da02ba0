"""What `verify-resume` found, as figures, as the rows of a table, and as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framework.config.sizes import in_words
from framework.errors import DifferenceError
from framework_verify import comparing, verdict
from framework_verify.comparing import Row
from framework_verify.trail import Attempt, Parting
from framework_verify.verdict import Verdict
from framework_verify.witness import saved_state


class Report(NamedTuple):
    """What `verify-resume` says.

    Attributes:
      rows: where the runs are not the same; none if they are.
      verdict: what parts them, if anything does.
      figures: what was done and compared, in words.
      notes: what was not compared, and why.
      folder: where the runs are kept, if they are not the same.
    """

    rows: tuple[Row, ...]
    verdict: Verdict | None
    figures: str
    notes: tuple[str, ...]
    folder: Path | None

    def check(self) -> None:
        """Pass where the runs are the same.

        Raises: DifferenceError saying where to look.
        """
        if self.verdict is not None:
            kind, certainty, because, suspects = self.verdict
            look = f" Look at {', '.join(suspects)}." if suspects else ""
            raise DifferenceError(f"{kind} ({certainty}): {because}.{look} Both runs are kept in {self.folder}.")


def figures_of(work: Path, straight: Attempt, killed: Sequence[Attempt]) -> str:
    last = max(straight.states)
    leaves = straight.states[last]
    folder = work / "straight"
    kills = listed([step for attempt in killed for step in attempt.kills])
    resumed = listed([attempt.start for attempt in killed[1:]])
    size = sum(size for state in straight.states.values() for _, size in state.values())
    return (
        f"killed at steps {kills} of {last} and resumed at {resumed}, the run is bit for bit the one left alone: "
        f"{len(leaves)} leaves at {len(straight.states)} steps ({in_words(size)}), {len(straight.batches)} batches, "
        f"{len(comparing.lines(folder))} lines of metrics.jsonl, {len(comparing.kept(folder))} kept checkpoints, "
        f"run.json, {len(comparing.files(folder))} other files"
    )


def rows_of(work: Path, found: Parting, exact: Parting | None, plugins: verdict.Plugins) -> list[Row]:
    """What parts within the steps, as rows of the table."""
    at, rows = exact or found, []
    if at.arrays:
        rows.append(Row("data", "start", "other training examples in memory"))
    if at.batch:
        twin = "a batch of its own" if at.batch.twin is None else f"the batch of step {at.batch.twin}"
        rows.append(Row("batches", f"step {at.batch.step}", twin))
    if at.state is not None:
        first = at.leaves[0]
        how = "" if exact is None else _how_far(work, exact)
        text = f"{len(at.leaves)} leaves, first {first}{how}, kept by {verdict.owner(first, plugins)}"
        rows.append(Row("state", f"step {at.state}", text))
    if at.tags:
        rows.append(Row("log", f"step {at.log if at.state is None else at.state}", ", ".join(at.tags)))
    rows += [Row(f"batches of {split}", "eval", "others") for split in at.splits]
    return rows


def _how_far(work: Path, found: Parting) -> str:
    """How many elements of the first leaf differ, and how far at most, where both states were kept."""
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


def text(report: Report) -> str:
    """The report as a line, or as a table."""
    if not report.rows:
        return "\n".join([f"same: {report.figures}", *report.notes])
    lines = [("in", "at", "the run left alone, and the resumed one"), *report.rows]
    head = "different" + (f": {report.figures}" if report.figures else "")
    return "\n".join([head, *(line.rstrip() for line in _aligned(lines)), *report.notes])


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines, each column to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in lines]


def listed(numbers: Sequence[int]) -> str:
    """Such as "3, 8 and 21"."""
    words = [*map(str, numbers)]
    return " and ".join(word for word in (", ".join(words[:-1]), *words[-1:]) if word)
