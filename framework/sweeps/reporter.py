"""A callback that hands the evaluations of a run to the ledger. No config names it, and no record knows it."""

from __future__ import annotations

from collections.abc import Mapping

from framework.api import Callback, Run, StopTraining
from framework.experiment import Experiment, NamedCallback
from framework.sweeps.worker import Reporting


class Reporter(Callback):
    """Report each evaluation, and end the run if the search says so."""

    def __init__(self, reporting: Reporting | None, directions: Mapping[str, bool | None]) -> None:
        self._reporting, self.directions = reporting, directions

    @property
    def reporting(self) -> Reporting:
        """Return where it reports to; of several processes the first alone does."""
        assert self._reporting is not None
        return self._reporting

    def on_start(self, run: Run) -> None:
        """Take the number of steps."""
        self.reporting.last_step = run.total_steps

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Report an evaluation."""
        if reason := self.reporting.evaluated(step, scalars):
            raise StopTraining(reason)

    def settle(self, wait: bool) -> None:
        """End a run whose lease is lost, or whose time is over."""
        if not wait:
            self.reporting.check()


def with_reporter(experiment: Experiment, reporting: Reporting | None, budget: int | None) -> Experiment:
    """Return an experiment that reports. The reporter comes last: every other callback has seen a state before.

    Args:
      reporting: None in processes that follow the one that reports.
      budget: number of updates after which the search wants a report, or None.
    """
    reporter = NamedCallback("the report of the sweep", Reporter(reporting, experiment.directions))
    return evaluating(experiment, budget)._replace(callbacks=(*experiment.callbacks, reporter))


def evaluating(experiment: Experiment, budget: int | None) -> Experiment:
    """Return an experiment that is evaluated at the step where its search wants a report.

    Its own evaluations stay, unless the first of them comes after that step.

    Args:
      budget: that step; None if the search wants none beside the run's own.
    """
    if budget is None or 0 < experiment.eval_every <= budget:
        return experiment
    return experiment._replace(eval_every=budget)
