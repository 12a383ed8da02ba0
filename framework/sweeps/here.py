"""Training of points in this process: one after the other, or several as one program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from framework.errors import line_of
from framework.launcher import Job, Outcome
from framework.sweeps.worker import work


class Hereabouts:
    """The process of the driver, as launchers use it."""

    def __init__(self, sweep: Path, config_dir: str | None, tell: Callable[[str], None]) -> None:
        self.sweep, self.config_dir, self.tell = sweep, config_dir, tell

    def train(self, job: Job) -> Outcome:
        """Train one job; whatever goes wrong is in the outcome. Raises: InterruptError after a signal."""
        return work(self.sweep, job, is_all=False)

    def say(self, line: str) -> None:
        """Show a line of the launcher."""
        self.tell(line)


def show_error(error: BaseException) -> None:
    """Show an error as the command line does."""
    sys.stderr.write(f"{line_of(error)}\n")
