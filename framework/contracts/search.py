"""Searches: the contract of what chooses the points of a sweep. It imports no JAX, and a search needs none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Decision = Literal["continue", "pause", "prune"]
"""Answers to a report: train on; save the state, perhaps to go on later; end."""

Status = Literal["running", "done", "failed", "pruned", "paused"]
"""States of a trial in a report. Running: an evaluation in the middle of the training; else the report is the last one
of this attempt."""


class Choice(NamedTuple):
    """Values of which a point takes one.

    Attributes:
      keys: of the config, as on the command line. Several keys are read side by side, not combined.
      values: plain values, one tuple for each choice, with one value for each key.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


class Interval(NamedTuple):
    """A range of numbers from which a point takes any.

    Attributes:
      key: of the config, as on the command line.
      low: the least value.
      high: the greatest value; it is possible for integers.
      log: values are spread evenly over orders of magnitude.
      integer: only whole numbers.
    """

    key: str
    low: float
    high: float
    log: bool = False
    integer: bool = False


Space = Sequence[Choice | Interval]
"""The dimensions of a sweep, in the order in which they were given; the last one varies fastest in a grid."""


class Goal(NamedTuple):
    """A metric to improve.

    Attributes:
      tag: such as "eval/loss".
      is_high_good: whether higher values are better.
    """

    tag: str
    is_high_good: bool = False


class Trial(NamedTuple):
    """A point that a search asks for.

    Attributes:
      parameters: plain values by config key.
      budget: number of updates after which a report is wanted; None for those of the run's own evaluations.
      goes_on_from: number of the paused trial that is to be continued; None for a new one. The parameters are the same.
      overrides: further plain values by config key, which names and tables do not show.
    """

    parameters: Mapping[str, Any]
    budget: int | None = None
    goes_on_from: int | None = None
    overrides: Mapping[str, Any] = {}


class Report(NamedTuple):
    """A message about a trial, in the order of the ledger.

    Attributes:
      number: of the trial in its sweep, from 1.
      step: number of updates; 0 if it is not known.
      scalars: the values of the last evaluation by tag. A value that is not finite is left out.
      status: of the trial.
    """

    number: int
    step: int
    scalars: Mapping[str, float]
    status: Status = "running"


class Search(ABC):
    """A state machine over plain values.

    All that it does is a function of its options, of the space, of the seed, and of the reports in the order in which
    it was told them. So a search that was interrupted is restored by asking and telling it again what the ledger holds.

    Attributes:
      watches: it decides in the middle of a training, so that a run waits for its answer after each evaluation.
      ahead: number of points that may be trained at once; 0 for any. A search that learns from results needs some of
        them before it asks for more than a few.
    """

    watches: bool = False
    ahead: int = 0

    @abstractmethod
    def begin(self, space: Space, goals: Sequence[Goal], seed: int) -> int | None:
        """Begin with the dimensions, and with the goals, of which the first is the main one.

        Returns: the number of trials, or None if that is not known.

        Raises: ConfigError if the search cannot be made over such a space.
        """

    def keep(self, folder: Path) -> None:  # noqa: B027 - most searches keep no files
        """Take the folder of the sweep before `begin`, for files that other programs show.

        The ledger stays the truth: such a file is made anew where a sweep goes on.
        """

    @abstractmethod
    def ask(self) -> Trial | None:
        """Return the next trial, or None if there is none until a report is told, or none at all."""

    def told_number(self, trial: Trial, number: int) -> None:  # noqa: B027 - most searches count by themselves
        """Take the number that a new trial of `ask` got."""

    def tell(self, trial: Trial, report: Report) -> None:  # noqa: B027 - a grid does not listen
        """Take a report."""

    def decide(self, trial: Trial, report: Report) -> Decision:
        """Answer a report that was told, of a trial that is running."""
        return "continue"

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Tell if no trial will come any more, whatever is told."""
