"""The verb `reproduce`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.command import Command
from framework.commands.answers import json_of
from framework.commands.arguments import Arguments
from framework.errors import FrameworkError, InterruptError, printable
from framework.startup import import_jax

if TYPE_CHECKING:
    from framework_verify.reproduced import Reproduction

HEADS = {"same": "same bits", "inside": "not the same bits, but as near as can be expected", "differs": "different"}


def reproduce() -> Command:
    """Make a run again from its record, and compare."""
    return Command("reproduce", "make a run again from its record; are the bits the same?", run, group="measure")


def run(words: list[str]) -> None:
    """Make a run again, and print a verdict.

    Raises: DifferenceError, with exit code 8, if the runs differ; FrameworkError with the code of the cause, if the
      run cannot be made again.
    """
    given = _read(words)
    import_jax()
    from framework_verify import reproduced

    try:
        found = reproduced.reproduce(Path(given.run), given.words, given.to, given.tolerance)
    except InterruptError:
        raise
    except FrameworkError as error:
        cannot = {"verdict": "cannot", "run": given.run, "because": str(error), "code": error.exit_code}
        _print(cannot if given.json else f"cannot reproduce {given.run}")
        raise
    _print(as_json(found) if given.json else text(found))
    found.check()


def _read(words: list[str]) -> argparse.Namespace:
    arguments = Arguments(
        "reproduce",
        "Make a finished run again from its record, in a new folder, and compare the logs without times, and the last "
        "checkpoint, bit by bit. Code, packages and machine that are not as in the record are told first.",
        "reproduce runs/mnist/20260101-120000-1a2b --to again",
        "RUN [KEY=VALUE ...] [options]",
    )
    arguments.add_run("folder of the run, which is only read")
    arguments.add_argument("words", nargs="*", metavar="KEY=VALUE", help="a secret that the record does not hold")
    arguments.add_argument("--to", metavar="FOLDER", help="folder of the new run (a fresh one, as of `train RUN`)")
    about = "share by which logged values may differ on another machine or with other versions (the spread of three or "
    about += "more seeds beside the run, or 0.01)"
    arguments.add_argument("--tolerance", type=_share, metavar="X", help=about)
    arguments.add_json()
    given = arguments.read(words)
    return given


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, found '{word}'")
    return share


def text(found: Reproduction) -> str:
    """Write a verdict: a line where the runs are the same, else a table of the differences."""
    from framework.console.tables import text_table

    lines = [f"{HEADS[found.verdict]}: {found.figures}"]
    if found.rows:
        lines.append(text_table([("in", "at", "the recorded run, and the new one"), *found.rows]))
    reasons = [each.text for each in found.told if each.is_of_bits]
    if found.verdict == "inside":
        lines.append(f"equal bits cannot be expected: {'; '.join(reasons)}")
    return "\n".join([*lines, f"the new run: {found.again}"])


def as_json(found: Reproduction) -> dict[str, Any]:
    """Return a verdict as plain values."""
    return {
        "verdict": found.verdict,
        "run": str(found.run),
        "again": str(found.again),
        "figures": found.figures,
        "differences": [row._asdict() for row in found.rows],
        "told": [each._asdict() for each in found.told],
    }


def _print(answer: str | dict[str, Any]) -> None:
    sys.stdout.write((printable(answer) if isinstance(answer, str) else json_of(answer)) + "\n")
    sys.stdout.flush()
