"""The ledger of a sweep: its points, attempts, leases, reports and decisions, in one SQLite file.

It is in WAL mode: readers never wait, writers wait for each other, and a kill at any moment loses no transaction. Every
method is one transaction.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from framework.errors import StorageError, writing

State = Literal["waiting", "running", "paused", "done", "failed", "pruned", "preempted", "lost"]
"""States of a point. Lost: the lease ran out, and nobody said how it ended. A paused one waits for its search."""

OVER: tuple[State, ...] = ("done", "pruned")
"""States of points that are never begun again."""

OPEN: tuple[State, ...] = ("waiting", "preempted", "lost")
"""States of points that wait for a worker."""

LEASE = 30.0
"""Seconds after the last heartbeat at which a point is lost: a worker that swaps or stalls is not dead at once."""

PATIENCE = 30.0
"""Seconds that a writer waits for the others."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS points (
  number INTEGER PRIMARY KEY, hash TEXT NOT NULL, parameters TEXT NOT NULL, words TEXT NOT NULL,
  directory TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0, budget INTEGER, owner TEXT, beat REAL, begun REAL,
  seconds REAL NOT NULL DEFAULT 0, step INTEGER NOT NULL DEFAULT 0, scalars TEXT NOT NULL DEFAULT '{}',
  exit_code INTEGER, reason TEXT, content TEXT);
CREATE INDEX IF NOT EXISTS by_state ON points (state);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, number INTEGER NOT NULL, attempt INTEGER NOT NULL,
  content TEXT NOT NULL, decision TEXT);
"""


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
    state: State
    attempts: int
    failures: int
    budget: int | None
    owner: str | None
    beat: float | None
    begun: float | None
    seconds: float
    step: int
    scalars: Mapping[str, float]
    exit_code: int | None
    reason: str | None
    content: Mapping[str, Any] | None


_JSON = ("parameters", "words", "scalars", "content")


class Event(NamedTuple):
    """An entry of the history that a search is restored from.

    Attributes:
      id: events are in its order.
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
    decision: str | None


class Ledger:
    """The ledger in one file, for one thread."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Open the file.

        Raises: StorageError if it cannot be opened, or there is none and it is not to be created.
        """
        self.path = path
        if not create and not path.is_file():
            raise StorageError(f"{path.parent} is no sweep: it holds no {path.name}; `framework -m …` begins one.")
        if create and not path.exists():
            self._create(path)
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
            except sqlite3.Error:
                self.close()
                raise

    def _create(self, path: Path) -> None:
        """Make the file under another name first, so that no reader finds it without its tables."""
        partial = path.with_name(f".{path.name}.partial")
        with self._errors(), writing(path):
            partial.unlink(missing_ok=True)
            connection = sqlite3.connect(partial)
            connection.executescript(_SCHEMA)
            connection.close()
            partial.replace(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> dict[str, Any]:
        """Return what is known of the sweep as a whole."""
        return {row["key"]: json.loads(row["value"]) for row in self._rows("SELECT key, value FROM facts")}

    def note(self, **facts: Any) -> None:
        """Set facts of the sweep as a whole."""
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

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
        row = (number, hash, _text(parameters), _text(list(words)), directory, "waiting", _text(content))
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO points (number, hash, parameters, words, directory, state, content, budget) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, trial.get("budget")),
            )
            _event(connection, "ask", number, 0, trial)

    def ask_again(self, number: int, trial: Mapping[str, Any]) -> None:
        """Let a paused point wait again, by the will of its search."""
        with self._writing() as connection:
            budget = trial.get("budget")
            connection.execute("UPDATE points SET state = 'waiting', budget = ? WHERE number = ?", (budget, number))
            _event(connection, "ask", number, 0, dict(trial))

    def points(self, *states: State) -> list[Point]:
        """Return the points in some states, or all, in the order of their numbers."""
        marks = ", ".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        return [_point(row) for row in self._rows(f"SELECT * FROM points {where} ORDER BY number", states)]

    def point(self, number: int) -> Point:
        """Return one point. Raises: StorageError if there is none of this number."""
        rows = self._rows("SELECT * FROM points WHERE number = ?", (number,))
        if not rows:
            raise StorageError(f"{self.path.parent} has no point {number}.")
        return _point(rows[0])

    def counts(self) -> dict[str, int]:
        """Return how many points are in each state."""
        rows = self._rows("SELECT state, COUNT(*) AS many FROM points GROUP BY state")
        return {row["state"]: row["many"] for row in rows}

    def claim(self, number: int, owner: str) -> Point | None:
        """Take the lease of a point that waits, or whose worker was lost.

        Args:
          owner: a name that no other worker has.

        Returns: the point, with its attempt counted; None if another worker has it, or it is over.
        """
        now = time.time()
        with self._writing() as connection:
            cursor = connection.execute(
                "UPDATE points SET state = 'running', owner = ?, beat = ?, begun = ?, attempts = attempts + 1, "
                "exit_code = NULL, reason = NULL WHERE number = ? AND (state IN ('waiting', 'preempted', 'lost') "
                "OR (state = 'running' AND beat < ?))",
                (owner, now, now, number, now - LEASE),
            )
            rows = connection.execute("SELECT * FROM points WHERE number = ?", (number,)).fetchall()
        return _point(rows[0]) if cursor.rowcount == 1 else None

    def beat(self, number: int, owner: str) -> bool:
        """Renew a lease, and return whether it is still held."""
        with self._writing() as connection:
            text = "UPDATE points SET beat = ? WHERE number = ? AND owner = ? AND state = 'running'"
            return connection.execute(text, (time.time(), number, owner)).rowcount == 1

    def report(self, number: int, owner: str, step: int, scalars: Mapping[str, float]) -> int | None:
        """Add the report of an evaluation, and renew the lease.

        Returns: the id of the event, under which a decision may come; None if the lease is lost.
        """
        finite = {tag: float(value) for tag, value in scalars.items() if math.isfinite(value)}
        with self._writing() as connection:
            text = "UPDATE points SET beat = ?, step = ?, scalars = ? WHERE number = ? AND owner = ? "
            held = connection.execute(
                text + "AND state = 'running'", (time.time(), step, _text(finite), number, owner)
            ).rowcount
            if not held:
                return None
            return _event(connection, "running", number, 0, {"step": step, "scalars": finite})

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
        finite = {tag: float(value) for tag, value in (scalars or {}).items() if math.isfinite(value)}
        with self._writing() as connection:
            rows = connection.execute("SELECT * FROM points WHERE number = ?", (number,)).fetchall()
            if not rows or rows[0]["state"] != "running" or (owner is not None and rows[0]["owner"] != owner):
                return False
            row = rows[0]
            # Of an attempt whose worker is gone, only the time up to its last heartbeat was spent.
            until = (row["beat"] or row["begun"]) if owner is None else time.time()
            seconds = row["seconds"] + max(0.0, until - row["begun"]) / share
            connection.execute(
                "UPDATE points SET state = ?, owner = NULL, beat = NULL, seconds = ?, step = ?, scalars = ?, "
                "exit_code = ?, reason = ?, failures = failures + ? WHERE number = ?",
                (
                    state,
                    seconds,
                    step or row["step"],
                    _text(finite) if scalars is not None else row["scalars"],
                    exit_code,
                    reason or None,
                    int(state == "failed"),
                    number,
                ),
            )
            if state in ("done", "failed", "pruned", "paused"):
                content = {"step": step or row["step"], "scalars": finite or json.loads(row["scalars"])}
                _event(connection, state, number, row["attempts"], content)
            return True

    def note_data(self, number: int, digests: Mapping[str, str]) -> None:
        """Note the digests of the data that a point has read."""
        with self._writing() as connection:
            text = "UPDATE points SET content = json_set(COALESCE(content, '{}'), '$.data', json(?)) WHERE number = ?"
            connection.execute(text, (_text(dict(digests)), number))

    def rehash(self, number: int, hash: str, content: Mapping[str, Any]) -> None:
        """Note what a point's numbers follow from, and the hash of that."""
        with self._writing() as connection:
            text = "UPDATE points SET hash = ?, content = ? WHERE number = ?"
            connection.execute(text, (hash, _text(dict(content)), number))

    def reopen(self, number: int, keep_failures: bool = False, directory: str | None = None) -> None:
        """Let a point that is over, failed or paused wait again, in another run folder if it is to begin anew."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE points SET state = 'waiting', failures = failures * ?, hash = CASE WHEN ? IS NULL THEN hash "
                "ELSE '' END, directory = COALESCE(?, directory) WHERE number = ? AND state != 'running'",
                (int(keep_failures), directory, directory, number),
            )

    def settle(self, number: int, state: State) -> None:
        """End a point that nobody trains, by an answer of the search that its worker did not live to hear."""
        with self._writing() as connection:
            rows = connection.execute("SELECT * FROM points WHERE number = ?", (number,)).fetchall()
            if rows and rows[0]["state"] in OPEN:
                connection.execute("UPDATE points SET state = ? WHERE number = ?", (state, number))
                content = {"step": rows[0]["step"], "scalars": json.loads(rows[0]["scalars"])}
                _event(connection, state, number, rows[0]["attempts"], content)

    def events(self, after: int = 0) -> list[Event]:
        """Return the history beyond an event."""
        rows = self._rows("SELECT * FROM events WHERE id > ? ORDER BY id", (after,))
        return [Event(**{**dict(row), "content": json.loads(row["content"])}) for row in rows]

    def decide(self, event: int, decision: str) -> None:
        """Answer a report."""
        with self._writing() as connection:
            connection.execute("UPDATE events SET decision = ? WHERE id = ?", (decision, event))

    def decision(self, event: int) -> str | None:
        """Return the answer to a report, or None if there is none yet."""
        rows = self._rows("SELECT decision FROM events WHERE id = ?", (event,))
        return rows[0]["decision"] if rows else None

    def _rows(self, text: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._errors():
            return self._connection.execute(text, tuple(values)).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self.path} cannot be read or written: {error}.") from error


def _event(connection: sqlite3.Connection, kind: str, number: int, attempt: int, content: Mapping[str, Any]) -> int:
    text = "INSERT INTO events (kind, number, attempt, content) VALUES (?, ?, ?, ?)"
    return int(connection.execute(text, (kind, number, attempt, _text(content))).lastrowid or 0)


def _point(row: sqlite3.Row) -> Point:
    read = {key: json.loads(row[key]) if key in _JSON and row[key] is not None else row[key] for key in row.keys()}  # noqa: SIM118 - not a mapping
    return Point(**{**read, "words": tuple(read["words"])})


def _text(value: Any) -> str:
    return json.dumps(value)
