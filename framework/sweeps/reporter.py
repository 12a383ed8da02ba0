"""A callback that hands the evaluations of a run to the ledger. No config names it, and no record knows it."""

from __future__ import annotations

from collections.abc import Mapping

from framework.api import Callback, Run, StopTraining
from framework.experiment import Experiment, NamedCallback
from framework.sweeps.worker import Reporting


class Reporter(Callback):
    """Report each evaluation, and end the run if the search says so."""

    def __init__(self, reporting: Reporting, directions: Mapping[str, bool | None]) -> None:
        self.reporting, self.directions = reporting, directions

    def on_start(self, run: Run) -> None:
        """Take the number of steps."""
        self.reporting.last_step = run.total_steps

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Report an evaluation."""
        if not any(tag.startswith("eval/") for tag in scalars):
            return
        if reason := self.reporting.evaluated(step, scalars):
            raise StopTraining(reason)

    def settle(self, wait: bool) -> None:
        """End a run whose lease is lost, or whose time is over."""
        if not wait:
            self.reporting.check()


def with_reporter(experiment: Experiment, reporting: Reporting) -> Experiment:
    """Return an experiment that reports. The reporter comes last: every other callback has seen a state before."""
    reporter = NamedCallback("the report of the sweep", Reporter(reporting, experiment.directions))
    return evaluating(experiment, reporting.point.budget)._replace(callbacks=(*experiment.callbacks, reporter))


def evaluating(experiment: Experiment, budget: int | None) -> Experiment:
    """Return an experiment that is evaluated at the step where its search wants a report.

    Its own evaluations stay, unless the first of them comes after that step.

    Args:
      budget: that step; None if the search wants none beside the run's own.
    """
    settings = experiment.settings
    if budget is None or 0 < settings.train.eval_every <= budget:
        return experiment
    return experiment._replace(settings=settings._replace(train=settings.train._replace(eval_every=budget)))
