"""Early stopping: end a run whose metric no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping

from framework.api import Callback, Mode, Run, StopTraining, WatchedTag
from framework.errors import ConfigError


def early_stopping(
    metric: str = "eval/loss",
    mode: Mode = "auto",
    patience: int = 5,
    min_delta: float = 0.0,
    target: float | None = None,
) -> Callback:
    """End a run in good order once a metric has not improved for `patience` evaluations, or has reached its target.

    A resumed run goes on counting: it takes the values before from the run's history. The evaluation before the first
    step does not count: a run that begins with trained parameters may get worse before it gets better.

    Args:
      metric: the tag to watch, such as `eval/accuracy`.
      mode: "min" if low values are good, "max" if high ones are, "auto" for what the metric declares.
      patience: evaluations in a row without an improvement, after which the run ends.
      min_delta: the least improvement on the best value that counts. NaN is never better.
      target: a value that is good enough; null for none.

    Raises: ConfigError if patience is less than 1, min_delta is negative, or the metric is of the test split, which is
      measured after training.
    """
    if patience < 1:
        raise ConfigError(f"patience: expected at least 1 evaluation, found {patience}.")
    if not min_delta >= 0:
        raise ConfigError(f"min_delta: expected 0 or more, found {min_delta}.")
    return EarlyStopping(WatchedTag("metric", metric, mode), patience, min_delta, target)


class EarlyStopping(Callback):
    """Compare each value of a metric with the best so far, and with the target."""

    def __init__(self, watched: WatchedTag, patience: int, min_delta: float, target: float | None) -> None:
        self._watched = watched
        self._patience = patience
        self._min_delta = min_delta
        self._target = target

    def on_built(self, directions: Mapping[str, bool | None]) -> None:
        self._watched.check(directions)

    def on_start(self, run: Run) -> None:
        self._last_step = run.total_steps
        self._best, self._best_step, self._waited, self._seen = math.inf, 0, 0, 0
        for step, value in self._watched.start(run):
            self._compare(step, value)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        if (value := self._watched.value(scalars)) is None or step == 0:
            return
        self._compare(step, value)
        if step >= self._last_step:
            return
        if self._target is not None and self._watched.sign * value <= self._watched.sign * self._target:
            raise StopTraining(f"{self._watched.tag} is {value:.6g}, and its target is {self._target:.6g}")
        if self._waited >= self._patience:
            best = f"{self._watched.sign * self._best:.6g}, of step {self._best_step}"
            raise StopTraining(f"{self._watched.tag} has not improved on {best}, in {self._waited} evaluations")

    def _compare(self, step: int, value: float) -> None:
        if step <= self._seen:
            return  # evaluated again: the process was killed before it had recorded its end
        self._seen = step
        if self._watched.sign * value < self._best - self._min_delta:
            self._best, self._best_step, self._waited = self._watched.sign * value, step, 0
        else:
            self._waited += 1
