"""The verb `replay`."""

from __future__ import annotations

import pdb
import sys
from pathlib import Path

from framework.command import Command
from framework.commands.answers import json_of
from framework.commands.arguments import Arguments
from framework.errors import ConfigError, writing
from framework.startup import import_jax


def replay() -> Command:
    """Make a step that is not finite once more, and find out why."""
    return Command("replay", "find what made a number that is not finite: layer, examples", run, "measure")


def run(words: list[str]) -> None:
    """Replay the first step of a run that is not finite, and print a report.

    Raises: FrameworkError.
    """
    arguments = Arguments(
        "replay",
        "Make the step that a run kept in RUN/nan once more, op by op, on one device: which part of it was not finite "
        "first, in which layer, by which operation and line, with which examples, and what would have helped.",
        "replay runs/mnist/20260101-120000-1a2b",
        "RUN [KEY=VALUE ...] [options]",
    )
    arguments.add_run("folder of the run, or RUN/nan/step-7")
    arguments.add_words()
    arguments.add_argument("--pdb", action="store_true", help="open the debugger at the line of the operation")
    about = "compare it layer by layer with another run or capsule, or with itself by overrides in quotes"
    arguments.add_argument("--against", metavar="RUN|'KEY=VALUE …'", help=about)
    arguments.add_argument("--html", metavar="FILE", help="write that comparison as a page, too")
    arguments.add_json()
    given = arguments.read(words)
    if given.html is not None and given.against is None:
        raise ConfigError("--html: the page is that of a comparison; expected --against too.")
    import_jax()
    if given.against is not None:
        return _compare(Path(given.run), given.words, given.against, given.html, given.json)
    from framework_replay.operation import innermost_own
    from framework_replay.replay import replayed
    from framework_replay.report import as_json, text

    report = replayed(Path(given.run), given.words)
    sys.stdout.write((json_of(as_json(report)) if given.json else text(report)) + "\n")
    sys.stdout.flush()
    if given.pdb and report.found.operation is not None:
        pdb.post_mortem(innermost_own(report.found.operation.error.__traceback__))


def _compare(path: Path, words: list[str], other: str, file: str | None, is_json: bool) -> None:
    from framework_replay.case import opened
    from framework_replay.comparing import against, as_json, page, text

    found = against(opened(path, words), path, other)
    sys.stdout.write((json_of(as_json(found)) if is_json else text(found)) + "\n")
    sys.stdout.flush()
    if file is not None:
        with writing(Path(file)):
            Path(file).write_text(page(found))
