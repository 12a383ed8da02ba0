"""The verb `resume`."""

from __future__ import annotations

from framework.command import Command
from framework.commands.arguments import Arguments
from framework.config.overrides import is_run_folder
from framework.errors import ConfigError
from framework.startup import import_jax


def resume() -> Command:
    """Go on with a stopped run."""
    return Command("resume", "go on with a stopped run", run, group="train")


def run(words: list[str]) -> None:
    """Resume the run in a folder.

    Raises: ConfigError if no run folder is named; FrameworkError as a run does.
    """
    arguments = Arguments(
        "resume",
        "Go on with a stopped run, bit for bit as if it had not stopped. A run that is done is left as it is.",
        "resume runs/mnist/20260101-120000-1a2b train.steps=2000",
        "RUN [KEY=VALUE ...] [options]",
    )
    arguments.add_run()
    arguments.add_words()
    arguments.add_argument("--force", action="store_true", help="allow overrides that change what the run computes")
    given = arguments.read(words)
    if not is_run_folder(given.run):
        raise ConfigError(f"resume: expected a run folder before overrides, found '{given.run}'.")
    import_jax()
    from framework.runs.python_api import resume as resume_run

    resume_run(given.run, given.words, given.force)
