"""The verb `verify-resume`: from words to a report, and from that to text and an exit code."""

from __future__ import annotations

import argparse
import sys

from framework.command import Command
from framework.commands.answers import json_of
from framework.commands.arguments import Arguments
from framework.console.terminal import page_width
from framework.errors import printable


def verify_resume() -> Command:
    """Kill and resume an experiment, and compare it bit by bit with a run left alone."""
    return Command("verify-resume", "kill and resume it; is it the same run, bit by bit?", run, group="measure")


def run(words: list[str]) -> None:
    """Compare an experiment with itself, killed and resumed, and print a report.

    Raises: DifferenceError, with exit code 8, if they differ; a table on stdout says where.
    """
    arguments = Arguments(
        "verify-resume",
        "Run an experiment for some steps, run it again and kill it at random steps, resume it after each kill, and "
        "compare both runs bit by bit. A difference is blamed on the plugin that makes it.",
        "verify-resume +experiment=mnist --steps 64 --kills 2",
        "[RUN] [KEY=VALUE ...] [options]",
    )
    arguments.add_config()
    arguments.add_argument("--steps", type=_count, default=64, metavar="N", help="length of the runs, at most (64)")
    arguments.add_argument("--kills", type=_count, default=2, metavar="N", help="how often to kill and resume (2)")
    arguments.add_argument("--seed", type=_count, default=0, metavar="N", help="of the steps to kill at (0)")
    arguments.add_json()
    given = arguments.read(words)
    from framework_verify import findings, verify

    report = verify.verify_resume(given.words, given.config_dir, steps=given.steps, kills=given.kills, seed=given.seed)
    answer = json_of(findings.as_json(report)) if given.json else printable(findings.text(report, page_width()))
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()
    report.check()


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found '{text}'")
    return int(text)
