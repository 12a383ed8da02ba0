"""The ledger of a sweep: its points, attempts, leases, reports and decisions. Every method is one transaction.

A store keeps it: a database for the processes of one machine, or a journal on a disk that several share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.errors import StorageError
from framework.sweeps.database import Database
from framework.sweeps.entries import Event, Point, State, Store, Transaction
from framework.sweeps.folder import JOURNAL
from framework.sweeps.journal import Journal

OVER: tuple[State, ...] = ("done", "pruned")
"""States of points that are never begun again."""

OPEN: tuple[State, ...] = ("waiting", "preempted", "lost")
"""States of points that wait for a worker."""

LEASE = 30.0
"""Seconds after the last heartbeat at which a point is lost: a worker that swaps or stalls is not dead at once."""


class Ledger:
    """The ledger in one file, for one thread."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Open the file.

        Args:
          path: of the file; its name says which store it is.
          create: make it if there is none.

        Raises: StorageError if it cannot be opened, or there is none and it is not to be created.
        """
        self.path = path
        if not create and not path.is_file():
            raise StorageError(f"{path.parent} is no sweep: it holds no ledger; `framework -m …` begins one.")
        self._store: Store = Journal(path) if path.name == JOURNAL else Database(path)

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> dict[str, Any]:
        """Return what is known of the sweep as a whole."""
        return self._store.facts()

    def note(self, **facts: Any) -> None:
        """Set facts of the sweep as a whole."""
        with self._store.writing() as transaction:
            transaction.note(facts)

    def add(
        self,
        number: int,
        hash: str,
        parameters: Mapping[str, Any],
        words: Sequence[str],
        directory: str,
        content: Mapping[str, Any] | None = None,
        trial: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a point that waits, and the event that it was asked for."""
        trial = dict(trial or {})
        point = Point(number, hash, parameters, tuple(words), directory, budget=trial.get("budget"), content=content)
        with self._store.writing() as transaction:
            transaction.insert(point)
            transaction.event("ask", number, 0, trial)

    def ask_again(self, number: int, trial: Mapping[str, Any]) -> None:
        """Let a paused point wait again, by the will of its search."""
        with self._store.writing() as transaction:
            transaction.change(number, state="waiting", budget=trial.get("budget"))
            transaction.event("ask", number, 0, dict(trial))

    def points(self, *states: State) -> list[Point]:
        """Return the points in some states, or all, in the order of their numbers."""
        return self._store.points(states)

    def point(self, number: int) -> Point:
        """Return one point. Raises: StorageError if there is none of this number."""
        point = self._store.point(number)
        if point is None:
            raise StorageError(f"{self.path.parent} has no point {number}.")
        return point

    def counts(self) -> dict[str, int]:
        """Return how many points are in each state."""
        return self._store.counts()

    def claim(self, number: int, owner: str) -> Point | None:
        """Take the lease of a point that waits, or whose worker was lost.

        Args:
          owner: a name that no other worker has.

        Returns: the point, with its attempt counted; None if another worker has it, or it is over.
        """
        now = time.time()
        with self._store.writing() as transaction:
            point = transaction.point(number)
            if point is None or not (point.state in OPEN or _has_run_out(point, now)):
                return None
            begun: dict[str, Any] = {"owner": owner, "beat": now, "begun": now, "attempts": point.attempts + 1}
            begun |= {"state": "running", "exit_code": None, "reason": None}
            transaction.change(number, **begun)
        return point._replace(**begun)

    def beat(self, number: int, owner: str) -> bool:
        """Renew a lease, and return whether it is still held."""
        return self._store.beat(number, owner, time.time())

    def report(self, number: int, owner: str, step: int, scalars: Mapping[str, float]) -> int | None:
        """Add the report of an evaluation, and renew the lease.

        Returns: the id of the event, under which a decision may come; None if the lease is lost.
        """
        finite = _finite(scalars)
        with self._store.writing() as transaction:
            point = transaction.point(number)
            if point is None or point.state != "running" or point.owner != owner:
                return None
            transaction.change(number, beat=time.time(), step=int(step), scalars=finite)
            return transaction.event("running", number, 0, {"step": int(step), "scalars": finite})

    def finish(  # noqa: PLR0913 - all that is known of an end
        self,
        number: int,
        owner: str | None,
        state: State,
        *,
        step: int = 0,
        scalars: Mapping[str, float] | None = None,
        exit_code: int | None = None,
        reason: str = "",
        share: int = 1,
    ) -> bool:
        """End an attempt, and give the lease back.

        Args:
          owner: of the lease; None to end the attempt of any worker that is gone.
          share: number of points that its time was spent on.

        Returns: whether the lease was held; else nothing is changed.
        """
        with self._store.writing() as transaction:
            point = transaction.point(number)
            if point is None or point.state != "running" or (owner is not None and point.owner != owner):
                return False
            begun = point.begun or 0.0
            # Of an attempt whose worker is gone, only the time up to its last heartbeat was spent.
            until = (point.beat or begun) if owner is None else time.time()
            ended = point._replace(
                state=state,
                owner=None,
                beat=None,
                seconds=point.seconds + max(0.0, until - begun) / share,
                step=int(step) or point.step,
                scalars=point.scalars if scalars is None else _finite(scalars),
                exit_code=exit_code,
                reason=reason or None,
                failures=point.failures + int(state == "failed"),
            )
            transaction.change(number, **{name: getattr(ended, name) for name in _OF_AN_END})
            if state in ("done", "failed", "pruned", "paused"):
                _tell(transaction, ended._replace(scalars=ended.scalars or point.scalars))
            return True

    def note_data(self, number: int, digests: Mapping[str, str]) -> None:
        """Note the digests of the data that a point has read."""
        with self._store.writing() as transaction:
            if (point := transaction.point(number)) is not None:
                transaction.change(number, content={**(point.content or {}), "data": dict(digests)})

    def rehash(self, number: int, hash: str, content: Mapping[str, Any]) -> None:
        """Note what a point's numbers follow from, and the hash of that."""
        with self._store.writing() as transaction:
            transaction.change(number, hash=hash, content=dict(content))

    def reopen(self, number: int, keep_failures: bool = False, directory: str | None = None) -> None:
        """Let a point that is over, failed or paused wait again, in another run folder if it is to begin anew."""
        anew = {} if directory is None else {"directory": directory, "hash": "", "step": 0}
        with self._store.writing() as transaction:
            point = transaction.point(number)
            if point is not None and point.state != "running":
                failures = point.failures if keep_failures else 0
                transaction.change(number, state="waiting", failures=failures, **anew)

    def settle(self, number: int, state: State) -> None:
        """End a point that nobody trains, by an answer of the search that its worker did not live to hear."""
        with self._store.writing() as transaction:
            point = transaction.point(number)
            if point is not None and point.state in OPEN:
                transaction.change(number, state=state)
                _tell(transaction, point._replace(state=state))

    def events(self, after: int = 0) -> list[Event]:
        """Return the history beyond an event."""
        return self._store.events(after)

    def decide(self, event: int, decision: str) -> None:
        """Answer a report."""
        with self._store.writing() as transaction:
            transaction.decide(event, decision)

    def decision(self, event: int) -> str | None:
        """Return the answer to a report, or None if there is none yet."""
        return self._store.decision(event)


_OF_AN_END = ("state", "owner", "beat", "seconds", "step", "scalars", "exit_code", "reason", "failures")
"""Fields that the end of an attempt changes."""


def _has_run_out(point: Point, now: float) -> bool:
    return point.state == "running" and (point.beat or 0.0) < now - LEASE


def _finite(scalars: Mapping[str, float]) -> dict[str, float]:
    return {tag: float(value) for tag, value in scalars.items() if math.isfinite(value)}


def _tell(transaction: Transaction, point: Point) -> None:
    """Add the event that a point has ended."""
    content = {"step": point.step, "scalars": dict(point.scalars)}
    transaction.event(point.state, point.number, point.attempts, content)
