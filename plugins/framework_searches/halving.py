"""Asynchronous successive halving that promotes: the best of each stage go on from where they were paused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from framework.api import Decision, Goal, Report, Search, Size, Space, Trial
from framework.errors import ConfigError
from framework_searches.listed import SAMPLERS, Points


def halving(
    first: Size,
    stages: Size = 3,
    factor: int = 3,
    trials: Size = 27,
    sampler: Literal["grid", "random", "sobol"] = "random",
) -> Search:
    """Train all points for some steps, the best third of them for three times as many, and so on to the end of the run.

    A point that is not among the best is paused with its state saved. One that is promoted goes on from there, bit for
    bit as if it had never stopped, so that no step is made twice. No slot waits for the slowest point of a stage: a
    point is promoted once it is among the best of those that have come so far, and no new point is left (Li et al.
    2020, "A System for Massively Parallel Hyperparameter Tuning", algorithm 2, which promotes before it begins others).

    Args:
      first: updates of the first stage.
      stages: number of stages. Stage k ends after first · factor^k updates, and the last one where the run does.
      factor: one in so many points is promoted.
      trials: number of points; a grid has as many as it has.
      sampler: search that the points are taken from.

    Raises: ConfigError if the factor is below 2.
    """
    if factor < 2:
        raise ConfigError(f"factor: expected at least 2, found {factor}; one in so many is promoted.")
    budgets = [first * factor**stage for stage in range(stages - 1)]
    return Halving([*budgets, None], factor, SAMPLERS[sampler](trials))


class Halving(Search):
    """Stages of points, each with the scores of those that have reached its end."""

    watches = True

    def __init__(self, budgets: Sequence[int | None], factor: int, points: Points) -> None:
        """Take the plan.

        Args:
          budgets: updates after which each stage ends; None for the end of the run.
          factor: one in so many points is promoted.
          points: of the first stage.
        """
        self.budgets, self.factor, self.points = budgets, factor, points

    def begin(self, space: Space, goals: Sequence[Goal], seed: int) -> int:
        """Begin with no result."""
        self.goal = goals[0]
        self._new = self.points(space, seed)[::-1]
        self._parameters: dict[int, Mapping[str, Any]] = {}
        self._stage: dict[int, int] = {}  # that a trial is in, or was paused at the end of, until it is over
        self._scores: list[dict[int, float]] = [{} for _ in self.budgets]  # of each stage, by trial; low is good
        self._running: set[int] = set()
        self._asked = 0  # new trials that have no number yet
        return len(self._new)

    def ask(self) -> Trial | None:
        """Return a new point while there is one, else a paused one that is promoted."""
        if self._new:
            self._asked += 1
            return Trial(self._new.pop(), self.budgets[0])
        if (found := self._promotable()) is None:
            return None
        self._stage[found] += 1
        self._running.add(found)
        return Trial(self._parameters[found], self.budgets[self._stage[found]], goes_on_from=found)

    def told_number(self, trial: Trial, number: int) -> None:
        """Note a new trial."""
        self._parameters[number], self._stage[number] = trial.parameters, 0
        self._running.add(number)
        self._asked -= 1

    def tell(self, trial: Trial, report: Report) -> None:
        """Take the score of a trial that has reached the end of its stage, or has ended.

        A trial that failed has the worst score, until it is tried again.
        """
        number, is_running = report.number, report.status == "running"
        (self._running.add if is_running else self._running.discard)(number)
        if number not in self._stage or (is_running and not _is_spent(trial, report)):
            return
        scores, score = self._scores[self._stage[number]], report.scalars.get(self.goal.tag, math.nan)
        is_lost = report.status in ("failed", "pruned") or not math.isfinite(score)
        if is_lost or scores.get(number, math.inf) == math.inf:
            scores[number] = math.inf if is_lost else -score if self.goal.is_high_good else score
        if report.status in ("done", "pruned"):
            del self._stage[number]

    def decide(self, trial: Trial, report: Report) -> Decision:
        """Pause a trial at the end of its stage."""
        return "pause" if _is_spent(trial, report) else "continue"

    @property
    def is_over(self) -> bool:
        """Tell if nothing runs, and nothing is left to promote."""
        return not (self._new or self._asked or self._running) and self._promotable() is None

    def _promotable(self) -> int | None:
        """Return the best paused trial of the highest stage that has one among its best, or None.

        Where nothing runs and no trial has come to the last stage, the best one goes on, however few there are.
        """
        for stage in reversed(range(len(self.budgets) - 1)):
            scores = self._scores[stage]
            best = sorted(scores, key=lambda number: (scores[number], number))
            places = len(best) // self.factor
            if not (self._running or self._asked or any(self._scores[stage + 1 :])):
                places = max(places, 1)
            for number in best[:places]:
                if self._is_paused(number, stage) and scores[number] < math.inf:
                    return number
        return None

    def _is_paused(self, number: int, stage: int) -> bool:
        return self._stage.get(number) == stage and number not in self._running


def _is_spent(trial: Trial, report: Report) -> bool:
    return trial.budget is not None and report.step >= trial.budget
