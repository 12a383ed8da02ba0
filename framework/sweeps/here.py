"""Training of points in this process: one after the other, or several as one program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from framework.errors import line_of
from framework.launcher import Job, Outcome
from framework.sweeps.folder import ledger_of
from framework.sweeps.labels import label
from framework.sweeps.ledger import Ledger
from framework.sweeps.measure import pays
from framework.sweeps.together import grouped, work_together
from framework.sweeps.worker import work


class Hereabouts:
    """The process of the driver, as launchers use it."""

    def __init__(self, sweep: Path, config_dir: str | None, tell: Callable[[str], None]) -> None:
        self.sweep, self.config_dir, self.tell = sweep, config_dir, tell

    def train(self, job: Job) -> Outcome:
        """Train one job; whatever goes wrong is in the outcome. Raises: InterruptError after a signal."""
        with Ledger(ledger_of(self.sweep)) as ledger:
            total, known = ledger.facts().get("total") or 0, sum(ledger.counts().values())
            point = ledger.point(job.number)
        of = f"/{max(total, known)}" if total else ""  # a search may not know how many there will be
        self.tell(f"job {job.number + 1}{of}: {label(point.parameters)}")
        return work(self.sweep, job, is_all=False)

    def groups(self, jobs: Sequence[Job]) -> list[tuple[Job, ...]]:
        """Put jobs together that one program can train."""
        return grouped(jobs, self.config_dir)

    def train_together(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Train a group as one program. Raises: InterruptError after a signal."""
        return work_together(self.sweep, jobs)

    def pays_together(self, jobs: Sequence[Job]) -> tuple[bool, str]:
        """Measure whether a group is faster as one program, and say the reason."""
        return pays(jobs, self.config_dir)

    def say(self, line: str) -> None:
        """Show a line of the launcher."""
        self.tell(line)


def show_error(error: BaseException) -> None:
    """Show an error as the command line does."""
    sys.stderr.write(f"{line_of(error)}\n")
