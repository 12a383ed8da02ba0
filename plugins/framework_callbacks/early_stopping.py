"""Early stopping: end a run whose metric no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

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

    A resumed run goes on counting: it takes the values before from the run's history. Of several members, each ends by
    its own values, `<metric>/<member>`, and the run once all have ended. The evaluation before the first step does not
    count: a run that begins with trained parameters may get worse before it gets better.

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
    """Compare each value of a metric with the best so far, and with the target: of the run, or of each member."""

    def __init__(self, watched: WatchedTag, patience: int, min_delta: float, target: float | None) -> None:
        self._watched = watched
        self._patience = patience
        self._min_delta = min_delta
        self._target = target

    def on_built(self, directions: Mapping[str, bool | None]) -> None:
        self._watched.check(directions)
        if "train/evolving/copies" in directions and not self._is_of_one():
            text = "members that evolve copy each other, so that none ends alone; leave this callback out, or watch one"
            raise ConfigError(f"metric: {text}, as {self._watched.tag}/0, by which the whole run ends.")

    def on_start(self, run: Run) -> None:
        self._last_step = run.total_steps
        self._run = self._judge(self._watched.tag, self._watched.start(run))
        self._members: dict[int, Judge] = {}
        if run.members and not self._is_of_one():
            tags = [f"{self._watched.tag}/{member}" for member in range(len(run.members))]
            self._members = {k: self._judge(tag, run.history.series(tag)) for k, tag in enumerate(tags)}

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        value = self._watched.value(scalars)
        for judge in self._members.values():
            if (own := scalars.get(judge.tag)) is not None:
                judge.see(step, own)
        if value is None or self._members:
            return
        self._run.see(step, value)
        if self._run.reason and step < self._last_step:
            raise StopTraining(self._run.reason)

    def ended_members(self) -> Mapping[int, str]:
        judges = self._members.items()
        return {member: judge.reason for member, judge in judges if judge.reason and judge.step < self._last_step}

    def _is_of_one(self) -> bool:
        """Return whether the tag is that of one member, such as `eval/loss/3`."""
        return self._watched.tag.rpartition("/")[2].isdecimal()

    def _judge(self, tag: str, logged: Iterable[tuple[int, float]]) -> Judge:
        judge = Judge(tag, self._watched.sign, self._patience, self._min_delta, self._target)
        for step, value in logged:
            judge.see(step, value)
        return judge


class Judge:
    """The rule for one series of values.

    Attributes:
      tag: of the series.
      step: of the last value.
      reason: words for the end that the last value asks for, or "".
    """

    def __init__(self, tag: str, sign: int, patience: int, min_delta: float, target: float | None) -> None:
        self.tag, self.reason = tag, ""
        self._sign, self._patience, self._min_delta, self._target = sign, patience, min_delta, target
        self._best, self._best_step, self._waited, self.step = math.inf, 0, 0, 0

    def see(self, step: int, value: float) -> None:
        """Compare the value of a step, and decide; that of step 0 is passed over."""
        if step == 0:
            return
        if step > self.step:  # a step is evaluated again if the process was killed before it had recorded its end
            self.step = step
            if self._sign * value < self._best - self._min_delta:
                self._best, self._best_step, self._waited = self._sign * value, step, 0
            else:
                self._waited += 1
        self.reason = ""
        if self._target is not None and self._sign * value <= self._sign * self._target:
            self.reason = f"{self.tag} is {value:.6g}, and its target is {self._target:.6g}"
        elif self._waited >= self._patience:
            best = f"{self._sign * self._best:.6g}, of step {self._best_step}"
            self.reason = f"{self.tag} has not improved on {best}, in {self._waited} evaluations"
