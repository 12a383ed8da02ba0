"""A ledger as a database of SQLite in WAL mode, for the processes of one machine.

Readers never wait, writers wait for each other, and a kill at any moment loses no transaction. WAL shares memory
between processes, which no two machines do.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framework.errors import StorageError, writing
from framework.sweeps.entries import PATIENCE, Event, Point, State

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

_JSON = ("parameters", "words", "scalars", "content")
"""Columns of points that hold JSON."""


class Database:
    """The store in one file of SQLite."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if there is none.

        Raises: StorageError.
        """
        self.path = path
        if not path.exists():
            self._create()
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
            except sqlite3.Error:
                self.close()
                raise

    def _create(self) -> None:
        """Make the file under another name first, so that no reader finds it without its tables."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        with self._errors(), writing(self.path):
            partial.unlink(missing_ok=True)
            connection = sqlite3.connect(partial)
            connection.executescript(_SCHEMA)
            connection.close()
            partial.replace(self.path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def facts(self) -> dict[str, Any]:
        """Return what is known of the sweep as a whole."""
        return {row["key"]: json.loads(row["value"]) for row in self._rows("SELECT key, value FROM facts")}

    def points(self, states: Sequence[State]) -> list[Point]:
        """Return the points in some states, or all."""
        marks = ", ".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        return [_point(row) for row in self._rows(f"SELECT * FROM points {where} ORDER BY number", states)]

    def point(self, number: int) -> Point | None:
        """Return one point, or None."""
        rows = self._rows("SELECT * FROM points WHERE number = ?", (number,))
        return _point(rows[0]) if rows else None

    def counts(self) -> dict[str, int]:
        """Return how many points are in each state."""
        rows = self._rows("SELECT state, COUNT(*) AS many FROM points GROUP BY state")
        return {row["state"]: row["many"] for row in rows}

    def events(self, after: int) -> list[Event]:
        """Return the events beyond an id."""
        rows = self._rows("SELECT * FROM events WHERE id > ? ORDER BY id", (after,))
        return [Event(**{**dict(row), "content": json.loads(row["content"])}) for row in rows]

    def decision(self, event: int) -> str | None:
        """Return the answer to an event, or None."""
        rows = self._rows("SELECT decision FROM events WHERE id = ?", (event,))
        return rows[0]["decision"] if rows else None

    def beat(self, number: int, owner: str, now: float) -> bool:
        """Note a heartbeat, and return whether the lease is held."""
        text = "UPDATE points SET beat = ? WHERE number = ? AND owner = ? AND state = 'running'"
        with self.writing() as transaction:
            return transaction.connection.execute(text, (now, number, owner)).rowcount == 1

    @contextmanager
    def writing(self) -> Iterator[_Transaction]:
        """Write as one transaction."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield _Transaction(self._connection)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, text: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._errors():
            return self._connection.execute(text, tuple(values)).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self.path} cannot be read or written: {error}.") from error


class _Transaction:
    """Statements between BEGIN and COMMIT."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def point(self, number: int) -> Point | None:
        rows = self.connection.execute("SELECT * FROM points WHERE number = ?", (number,)).fetchall()
        return _point(rows[0]) if rows else None

    def insert(self, point: Point) -> None:
        row = _row(point._asdict())
        marks = ", ".join("?" * len(row))
        self.connection.execute(f"INSERT INTO points ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))

    def change(self, number: int, **fields: Any) -> None:
        row = _row(fields)
        marks = ", ".join(f"{name} = ?" for name in row)
        self.connection.execute(f"UPDATE points SET {marks} WHERE number = ?", (*row.values(), number))

    def event(self, kind: str, number: int, attempt: int, content: Mapping[str, Any]) -> int:
        text = "INSERT INTO events (kind, number, attempt, content) VALUES (?, ?, ?, ?)"
        return int(self.connection.execute(text, (kind, number, attempt, json.dumps(content))).lastrowid or 0)

    def decide(self, event: int, decision: str) -> None:
        self.connection.execute("UPDATE events SET decision = ? WHERE id = ?", (decision, event))

    def note(self, facts: Mapping[str, Any]) -> None:
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        self.connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)


def _row(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON else value for name, value in fields.items()}


def _point(row: sqlite3.Row) -> Point:
    read = {key: json.loads(row[key]) if key in _JSON and row[key] is not None else row[key] for key in row.keys()}  # noqa: SIM118 - not a mapping
    return Point(**{**read, "words": tuple(read["words"])})
