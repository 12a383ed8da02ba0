"""A ledger as an append-only journal, for processes of several machines that share a disk.

Each line is one transaction, with its number and a checksum; what the ledger holds is what its lines do, one after
the other. A writer holds a lock that is a file, since `open` with O_EXCL is atomic on network file systems, as in
Optuna's `JournalFileOpenLock`. A writer that was killed leaves half a line at most, which is passed over. One that
stalls so long that its lock is taken from it writes a number that is taken: of two lines with one number, the first
counts for all.

Heartbeats lie in files of their own, which are overwritten: in a long sweep they would be most of the lines.
"""

from __future__ import annotations

import errno
import json
import os
import random
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from framework.errors import StorageError, writing
from framework.sweeps.entries import PATIENCE, Event, Point, State
from framework.sweeps.folder import is_gone, owner

STALE = 20.0
"""Seconds after which a lock is taken from a holder on another machine, which needs it for milliseconds."""

WAIT = (0.001, 0.05)
"""Seconds between two tries to get the lock: the first, which doubles, and the longest."""


HEADER = b"framework ledger 1\n"
"""First line of a journal."""

_Lock = tuple[str, int, int]
"""Holder, number and time of a file that is a lock, by which locks of one name are told apart."""


class Lock:
    """A lock between machines, by a file that names its holder."""

    def __init__(self, path: Path) -> None:
        self.path, self._owner = path, owner()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside the context.

        Raises: StorageError if others hold it for too long, or the disk fails.
        """
        with writing(self.path):
            self._acquire()
        try:
            yield
        finally:
            present = self._present()
            if present is not None and present[0] == self._owner:
                self.path.unlink(missing_ok=True)

    def _acquire(self) -> None:
        wait, seen, since, began = WAIT[0], self._present(), time.monotonic(), time.monotonic()
        while True:
            with suppress(FileExistsError):
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                os.write(descriptor, self._owner.encode())
                os.close(descriptor)
                return
            present = self._present()
            if present != seen:
                seen, since = present, time.monotonic()
            if present is not None and (is_gone(present[0]) or time.monotonic() - since > STALE):
                self._take(present)
                continue
            if time.monotonic() - began > STALE + PATIENCE:
                raise StorageError(f"{self.path} was held for {STALE + PATIENCE:g} s by others; try again.")
            time.sleep(random.uniform(0.5, 1.0) * wait)
            wait = min(2 * wait, WAIT[1])

    def _present(self) -> _Lock | None:
        return _lock(self.path)

    def _take(self, stale: _Lock) -> None:
        """Remove a lock; if it turns out to be another one by then, it is put back."""
        grave = self.path.with_name(f"{self.path.name}.{random.getrandbits(64):x}")
        with suppress(OSError):
            self.path.rename(grave)
            if _lock(grave) != stale:
                os.link(grave, self.path)
        grave.unlink(missing_ok=True)


def _lock(path: Path) -> _Lock | None:
    with suppress(OSError), path.open() as file:
        status = os.fstat(file.fileno())
        return file.read(), status.st_ino, status.st_mtime_ns
    return None


class Contents:
    """State of a ledger after the lines of a journal. Its methods are the actions that lines name."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.points: dict[int, Point] = {}
        self.events: list[Event] = []

    def do(self, actions: Sequence[Sequence[Any]]) -> None:
        """Do the actions of a line."""
        known = {"insert": self.insert, "change": self.change, "event": self.event, "decide": self.decide}
        for name, *given in actions:
            {**known, "note": self.facts.update}[name](*given)

    def insert(self, fields: dict[str, Any]) -> None:
        """Add a point."""
        self.points[fields["number"]] = Point(**{**fields, "words": tuple(fields["words"])})

    def change(self, number: int, fields: dict[str, Any]) -> None:
        """Change fields of a point."""
        if number in self.points:
            self.points[number] = self.points[number]._replace(**fields)

    def event(self, kind: str, number: int, attempt: int, content: dict[str, Any]) -> None:
        """Add an event."""
        self.events.append(Event(len(self.events) + 1, kind, number, attempt, content))

    def decide(self, event: int, decision: str) -> None:
        """Write the answer to an event."""
        self.events[event - 1] = self.events[event - 1]._replace(decision=decision)


class Journal:
    """The store in one file of lines. No file stays open: others' lines are seen for certain when a file is opened."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if there is none.

        Raises: StorageError.
        """
        self.path = path
        self._lock, self._beats = Lock(path.with_name(f"{path.name}.lock")), path.with_name(f"{path.name}.beats")
        self._offset, self._lines, self._is_torn = 0, 0, False
        self._contents = Contents()
        with writing(path):
            self._beats.mkdir(exist_ok=True)
            if not path.exists():
                self._create()
        self._read()

    def _create(self) -> None:
        """Make the file under another name first, so that no reader finds it without its header."""
        partial = self.path.with_name(f".{self.path.name}.{random.getrandbits(64):x}")
        partial.write_bytes(HEADER)
        with suppress(FileExistsError):
            os.link(partial, self.path)
        partial.unlink()

    def close(self) -> None:
        """Do nothing."""

    def facts(self) -> dict[str, Any]:
        """Return what is known of the sweep as a whole."""
        return dict(self._read().facts)

    def points(self, states: Sequence[State]) -> list[Point]:
        """Return the points in some states, or all."""
        points = self._read().points
        return [
            self._beating(points[number]) for number in sorted(points) if not states or points[number].state in states
        ]

    def point(self, number: int) -> Point | None:
        """Return one point, or None."""
        point = self._read().points.get(number)
        return None if point is None else self._beating(point)

    def counts(self) -> dict[str, int]:
        """Return how many points are in each state."""
        return dict(Counter(point.state for point in self._read().points.values()))

    def events(self, after: int) -> list[Event]:
        """Return the events beyond an id."""
        return self._read().events[after:]

    def decision(self, event: int) -> str | None:
        """Return the answer to an event, or None."""
        events = self._read().events
        return events[event - 1].decision if 0 < event <= len(events) else None

    def beat(self, number: int, owner: str, now: float) -> bool:
        """Note a heartbeat, and return whether the lease is held."""
        point = self._read().points.get(number)
        if point is None or point.state != "running" or point.owner != owner:
            return False
        path = self._beats / str(number)
        with writing(path):
            path.touch()
            os.utime(path, (now, now))
        return True

    @contextmanager
    def writing(self) -> Iterator[_Transaction]:
        """Write as one line."""
        with self._lock.held():
            transaction = _Transaction(self, len(self._read().events))
            yield transaction
            if transaction.actions:
                self._append(transaction.actions)

    def _append(self, actions: list[Any]) -> None:
        number, text = self._lines, json.dumps([self._lines, actions]).encode()
        line = (b"\n" if self._is_torn else b"") + b"%08x %s\n" % (zlib.crc32(text), text)
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._taken().get(number) != text:
            raise StorageError(f"{self.path} was written by others while this process had stalled; try again.")

    def _read(self) -> Contents:
        self._taken()
        return self._contents

    def _taken(self) -> dict[int, bytes]:
        """Do what the lines say that were added, and return them by their numbers."""
        try:
            with self.path.open("rb") as file:
                if self._offset == 0 and file.readline() != HEADER:
                    raise StorageError(f"{self.path} cannot be read or written: it is no ledger of a sweep.")
                self._offset = max(self._offset, len(HEADER))
                file.seek(self._offset)
                added = file.read()
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read or written: {error.strerror or error}.") from error
        *lines, rest = added.split(b"\n")
        self._offset += len(added) - len(rest)
        self._is_torn = bool(rest)
        taken = {}
        for line in lines:
            crc, _, text = line.partition(b" ")
            if crc != b"%08x" % zlib.crc32(text):
                continue  # torn by a kill
            number, actions = json.loads(text)
            if number > self._lines:
                text = f"{self.path} is damaged: of its lines, number {self._lines} cannot be read, and later ones can."
                raise StorageError(f"{text} Take a copy of the file from before.")
            if number == self._lines:
                self._contents.do(actions)
                self._lines += 1
                taken[number] = text
        return taken

    def _beating(self, point: Point) -> Point:
        """Return a point with its last heartbeat. The file is opened, so that no cached time is read."""
        if point.state == "running":
            with suppress(OSError), (self._beats / str(point.number)).open("rb") as file:
                return point._replace(beat=max(point.beat or 0.0, os.fstat(file.fileno()).st_mtime))
        return point


class _Transaction:
    """Actions of one line."""

    def __init__(self, journal: Journal, events: int) -> None:
        self._journal, self._events, self.actions = journal, events, list[Any]()

    def point(self, number: int) -> Point | None:
        return self._journal.point(number)

    def insert(self, point: Point) -> None:
        self.actions.append(["insert", point._asdict()])

    def change(self, number: int, **fields: Any) -> None:
        self.actions.append(["change", number, fields])

    def event(self, kind: str, number: int, attempt: int, content: Mapping[str, Any]) -> int:
        self.actions.append(["event", kind, number, attempt, content])
        self._events += 1
        return self._events

    def decide(self, event: int, decision: str) -> None:
        self.actions.append(["decide", event, decision])

    def note(self, facts: Mapping[str, Any]) -> None:
        self.actions.append(["note", facts])
