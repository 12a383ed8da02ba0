"""Entries of a ledger: points and events; and the contract of what stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

State = Literal["waiting", "running", "paused", "done", "failed", "pruned", "preempted", "lost"]
"""States of a point. Lost: the lease ran out, and nobody said how it ended. A paused one waits for its search."""

PATIENCE = 30.0
"""Seconds that a writer waits for the others."""


class Point(NamedTuple):
    """One point of a sweep.

    Attributes:
      number: from 1; points that are added later go on.
      hash: of all that decides its numbers.
      parameters: plain values by config key, as the search chose them.
      words: overrides of its run, without the run folder.
      directory: the run folder, relative to that of the sweep.
      state: of the point.
      attempts: number of times that it was begun.
      failures: how many of them failed by themselves.
      budget: number of updates after which the search wants a report; None for the whole run.
      owner: of the lease, while it runs.
      beat: time of the last heartbeat, in seconds since the epoch.
      begun: time at which the last attempt began.
      seconds: of all attempts together.
      step: number of updates, as last reported.
      scalars: last values by tag.
      exit_code: of the last attempt.
      reason: one line about its end, if it is not done.
      content: leaves of the canonical config and digests that the hash is made of.
    """

    number: int
    hash: str
    parameters: Mapping[str, Any]
    words: tuple[str, ...]
    directory: str
    state: State = "waiting"
    attempts: int = 0
    failures: int = 0
    budget: int | None = None
    owner: str | None = None
    beat: float | None = None
    begun: float | None = None
    seconds: float = 0.0
    step: int = 0
    scalars: Mapping[str, float] = {}
    exit_code: int | None = None
    reason: str | None = None
    content: Mapping[str, Any] | None = None


class Event(NamedTuple):
    """An entry of the history that a search is restored from.

    Attributes:
      id: from 1; events are in its order.
      kind: "ask" when a point was asked for, or asked for again; else the status of a report.
      number: of the point.
      attempt: of the point.
      content: of a report, its "step" and "scalars"; of an ask, the trial.
      decision: the answer to a report; None until there is one.
    """

    id: int
    kind: str
    number: int
    attempt: int
    content: Mapping[str, Any]
    decision: str | None = None


class Transaction(Protocol):
    """Changes that are written as one. They read the entries before them."""

    def point(self, number: int) -> Point | None:
        """Return one point, or None if there is none of this number."""
        ...

    def insert(self, point: Point) -> None:
        """Add a point."""
        ...

    def change(self, number: int, **fields: Any) -> None:
        """Change fields of a point."""
        ...

    def event(self, kind: str, number: int, attempt: int, content: Mapping[str, Any]) -> int:
        """Add an event, and return its id."""
        ...

    def decide(self, event: int, decision: str) -> None:
        """Write the answer to an event."""
        ...

    def note(self, facts: Mapping[str, Any]) -> None:
        """Set facts of the sweep as a whole."""
        ...


class Store(Protocol):
    """Points, events and facts in one file, for one thread, beside other processes that read and write it.

    Every method raises StorageError where the file cannot be read or written.
    """

    def facts(self) -> dict[str, Any]:
        """Return what is known of the sweep as a whole."""
        ...

    def points(self, states: Sequence[State]) -> list[Point]:
        """Return the points in some states, or all if none is named, in the order of their numbers."""
        ...

    def point(self, number: int) -> Point | None:
        """Return one point, or None if there is none of this number."""
        ...

    def counts(self) -> dict[str, int]:
        """Return how many points are in each state."""
        ...

    def events(self, after: int) -> list[Event]:
        """Return the events beyond an id, in their order."""
        ...

    def decision(self, event: int) -> str | None:
        """Return the answer to an event, or None if there is none yet."""
        ...

    def beat(self, number: int, owner: str, now: float) -> bool:
        """Note the time of a heartbeat of a point that runs under a lease, and return whether it does."""
        ...

    def writing(self) -> AbstractContextManager[Transaction]:
        """Write all that happens inside the context, or nothing of it; no other process writes meanwhile."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...
