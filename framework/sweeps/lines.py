"""Lines about the jobs of a sweep, one as each begins and one as it ends, whoever trains it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from framework.errors import StorageError
from framework.sweeps.labels import label
from framework.sweeps.ledger import Event, Ledger, Point

LOOK = 0.5
"""Seconds between two looks for jobs that others have begun or ended, such as a machine of a cluster."""

ENDED = ("done", "failed", "pruned")
"""States of points that count as over."""


class JobLines:
    """Lines about the jobs of a sweep: each begin and each end once, as the ledger tells them, in its order."""

    def __init__(
        self,
        counts: Mapping[str, int],
        known: int,
        heard: int,
        total: int | None,
        tag: str,
        is_retried: Callable[[Point], bool],
        tell: Callable[[str], None],
    ) -> None:
        """Take what is known already.

        Args:
          counts: number of points by state.
          known: the highest number of a point.
          heard: the last event of the ledger that is history.
          total: number of points of the search; None if that is open.
          tag: of the metric that the end of a job names.
          is_retried: tells whether a point that failed is begun again.
          tell: shows a line.
        """
        self._tag, self._is_retried, self._tell = tag, is_retried, tell
        self._over, self._known, self._heard = sum(counts.get(state, 0) for state in ENDED), known, heard
        self._total = total
        self._begun: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def begins(self, number: int, attempt: int, parameters: Mapping[str, Any], step: int) -> None:
        """Say that a job begins, or goes on from a step, unless that was said."""
        with self._lock:
            self._begins(number, attempt, parameters, step)

    def look(self, ledger: Ledger) -> None:
        """Say what has begun and ended since the last look."""
        with self._lock:
            for event in ledger.events(self._heard):
                self._heard = event.id
                if event.kind in (*ENDED, "paused"):
                    self._ends(ledger.point(event.number), event)
            for point in ledger.points("running"):
                self._begins(point.number, point.attempts, point.parameters, point.step)

    def look_always(self, ledger: Ledger, over: threading.Event) -> None:
        """Look from time to time until all is over. A disk that is away for a moment is told by what needs it."""
        with suppress(StorageError), Ledger(ledger.path) as own:  # a connection belongs to its thread
            while not over.wait(LOOK):
                with suppress(StorageError):
                    self.look(own)

    def cut(self, point: Point) -> None:
        """Say that a job was cut, and will go on."""
        reason = (point.reason or "").rstrip(".")
        self._tell(f"{self._name(point)} is {point.state} at step {point.step}, and will go on: {reason}")

    def _begins(self, number: int, attempt: int, parameters: Mapping[str, Any], step: int) -> None:
        if (number, attempt) not in self._begun:
            self._begun.add((number, attempt))
            self._known = max(self._known, number)
            on = f", from step {step}" if step else ""
            self._tell(f"job {self._place(number)}: {label(parameters)}{on}")

    def _ends(self, point: Point, event: Event) -> None:
        self._begins(point.number, event.attempt, point.parameters, 0)
        name, reason = self._name(point), (point.reason or "").rstrip(".")
        if event.kind == "failed" and self._is_retried(point):
            self._tell(f"{name} failed and is tried again: {reason}")
            return
        self._over += event.kind in ENDED
        over = f"; {self._over}{self._of()} over"
        if event.kind == "failed":
            self._tell(f"{name} failed: {reason}{over}")
            return
        shown = f", {self._tag} {point.scalars[self._tag]:.6g}" if self._tag in point.scalars else ""
        spent = f"step {event.content['step']}, {point.seconds:.1f} s"
        self._tell(f"{name} {event.kind} at {spent}{shown}{over if event.kind in ENDED else ''}")

    def _name(self, point: Point) -> str:
        return f"job {self._place(point.number)} ({label(point.parameters)})"

    def _place(self, number: int) -> str:
        return f"{number}/{max(self._total, self._known)}" if self._total else str(number)

    def _of(self) -> str:
        return f" of {max(self._total, self._known)}" if self._total else ""
