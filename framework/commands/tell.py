"""The verb `tell`: ask a running process for something, through its run folder."""

from __future__ import annotations

import sys
from pathlib import Path

from framework.command import Command
from framework.commands.arguments import Arguments


def tell() -> Command:
    """Ask a running process to save, to evaluate, to profile, or to stop."""
    return Command("tell", "ask a run that is going on to save, evaluate, profile or stop", run, group="train")


def run(words: list[str]) -> None:
    """Leave a request in a run folder.

    Raises: ConfigError, StorageError.
    """
    from framework.runs.asked import WORDS, ask

    arguments = Arguments(
        "tell",
        "Ask a process that trains in a run folder for something. It looks between two windows of steps, "
        "and says in its log what it was told. No port is opened.",
        "tell runs/mnist/20260101-120000-ab12 checkpoint",
        "RUN REQUEST",
    )
    arguments.add_argument("folder", metavar="RUN", help="the run folder")
    about = "; ".join(f"{word}: {meaning}" for word, meaning in WORDS.items())
    arguments.add_argument("request", metavar="REQUEST", help=about)
    given = arguments.read(words)
    ask(Path(given.folder), given.request)
    sys.stdout.write(f"asked {given.folder} to {given.request}; its log says when it is done\n")
