"""Training of points in this process: one after the other, or several as one program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.contracts.launcher import Job, Outcome
from framework.errors import line_of
from framework.sweeps.folder import ledger_of
from framework.sweeps.ledger import Ledger
from framework.sweeps.lines import JobLines
from framework.sweeps.measure import pays
from framework.sweeps.together import Built, grouped, work_together
from framework.sweeps.worker import work

if TYPE_CHECKING:
    from framework.contracts.components import Parameter
    from framework.experiment import Experiment


class Hereabouts:
    """The process of the driver, as launchers use it."""

    def __init__(self, sweep: Path, config_dir: str | None, lines: JobLines, tell: Callable[[str], None]) -> None:
        self.sweep, self.config_dir, self.lines, self.tell = sweep, config_dir, lines, tell
        self._shown: set[tuple[Parameter, ...]] = set()
        self._built: dict[tuple[Job, ...], Built] = {}  # for an answer of `pays_together`, and used at most once

    def train(self, job: Job) -> Outcome:
        """Train one job; whatever goes wrong is in the outcome. Raises: InterruptError after a signal."""
        self._begin([job])

        def reported(experiment: Experiment) -> Experiment:
            return self._known(experiment)._replace(is_reported=True)

        return work(self.sweep, job, is_all=False, watch=reported)

    def groups(self, jobs: Sequence[Job]) -> list[tuple[Job, ...]]:
        """Put jobs together that one program can train."""
        return grouped(jobs, self.config_dir)

    def train_together(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Train a group as one program. Raises: InterruptError after a signal."""
        self._begin(jobs)
        return work_together(self.sweep, jobs, self._known, self.say, self._built.pop(tuple(jobs), None))

    def pays_together(self, jobs: Sequence[Job]) -> tuple[bool, str]:
        """Measure whether a group is faster as one program, and say the reason."""
        is_faster, reason, built = pays(jobs, self.sweep, self.config_dir)
        if is_faster and built is not None:
            self._built[tuple(jobs)] = built
        return is_faster, reason

    def say(self, line: str) -> None:
        """Show a line of the launcher."""
        self.tell(line)

    def _begin(self, jobs: Sequence[Job]) -> None:
        """Say which jobs begin, before anything else is shown of them."""
        with Ledger(ledger_of(self.sweep)) as ledger:
            for job in jobs:
                point = ledger.point(job.number)
                self.lines.begins(job.number, job.attempt, point.parameters, point.step)

    def _known(self, experiment: Experiment) -> Experiment:
        """Mark an experiment whose model is like one that was trained here before."""
        is_known = experiment.parameters in self._shown
        self._shown.add(experiment.parameters)
        return experiment._replace(is_known=is_known)


def show_error(error: BaseException) -> None:
    """Show an error as the command line does."""
    sys.stderr.write(f"{line_of(error)}\n")
