"""The history of a run's metrics: one JSON object a line and one line a step, in `metrics.jsonl`."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from framework.api import Callback, History
from framework.errors import writing

LOGGER = logging.getLogger("framework")

CHECK = "crc32"
"""Key of a line's checksum, in hexadecimal: the CRC-32 of the run's id, and of the line up to the comma before the key.

So a digit that has changed on the disk, or a log of another run, is noticed when it is read.
"""

TIME = "time"
"""Key of the wall-clock of a line: seconds since 1970, UTC. Records leave it out, since it is no value of the run."""

STEP = b'{"step": '
"""The beginning of each line."""


class MetricsFile(History):
    """Read and write `metrics.jsonl` in a run folder; of several processes, only process 0 writes.

    A line is `{"step": 10, "train/loss": 0.25, …, "time": 1764460800.125, "crc32": "9ae0daaf"}`. JSON has no numbers
    that are not finite: they are the strings "NaN", "Infinity" and "-Infinity", so that Python's `float` and
    JavaScript's `Number` read every value. Each line is handed to the operating system in one write, so that a killed
    process leaves whole lines.
    """

    def __init__(self, directory: Path, run: str = "") -> None:
        """Open no file yet.

        Args:
          directory: the run folder.
          run: id of the run, which its checksums begin with.
        """
        self._path, self._seed = directory / "metrics.jsonl", zlib.crc32(run.encode())
        self._told = False  # of damaged lines
        self._last: dict[str, Any] = {}  # the last record
        self._start = self._end = 0  # its place in the file, in bytes

    def records(self, since: int = 0) -> Iterator[Mapping[str, float]]:
        """Yield the records of steps >= `since`; skip damaged lines, and say so but for half a line at the end."""
        return (record for _, record in self._sound(since))

    def _sound(self, since: int = 0) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Yield each sound line from a step on, with its record."""
        damaged: list[int] = []
        if self._path.is_file():
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if _is_before(line, since):
                        continue
                    if (record := _parsed(line, self._seed)) is None:
                        damaged += [number] if line.strip() and line.endswith(b"\n") else []
                    elif record["step"] >= since:
                        yield line, record
        if damaged and not self._told:
            self._told = True
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            text = "damaged, or of another run, and left out; what compares its values does without them"
            LOGGER.warning(f"{self._path}, line {damaged[0]}{more}: {text}.")

    def cut(self, step: int) -> dict[str, float]:
        """Drop the records beyond a step (all, for step 0), and go on after the others.

        Returns: the last value of each tag that is left, but those before the first step.

        Raises: StorageError if the file cannot be written.
        """
        self._last, self._start, self._end, scalars = {}, 0, 0, {}
        draft = self._path.with_name(f"{self._path.name}.draft")
        with writing(self._path):
            with draft.open("wb") as file:
                for line, record in self._sound() if step else ():
                    if record["step"] <= step:
                        self._last, self._start = record, self._end
                        # A line without a checksum is of an older version.
                        is_whole = _MARK in line and line.endswith(b"\n")
                        self._end += file.write(line if is_whole else _line(record, self._seed))
                        scalars |= record if record["step"] > 0 else {}
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)  # a crash leaves the old content or the new
        return {tag: value for tag, value in scalars.items() if tag != "step"}

    def append(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add scalars to the record of a step, which must not be older than the last one.

        Raises: StorageError if the line cannot be written whole.
        """
        if step != self._last.get("step"):
            self._last, self._start = {"step": step}, self._end
        self._last |= scalars
        line = _line(self._last | {TIME: round(time.time(), 3)}, self._seed)
        with writing(self._path):
            # Opened by its path each time, so that a folder that was moved or deleted is noticed.
            file = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                # A longer line replaces the step's first one in one write, so that the step is never missing.
                if os.pwrite(file, line, self._start) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                former, self._end = self._end, self._start + len(line)
                if former > self._end:
                    os.ftruncate(file, self._end)
            finally:
                os.close(file)


def last_written(directory: Path) -> float | None:
    """Return when the last record of a run was written, in seconds since 1970; None if no line says so."""
    last = None
    path = directory / "metrics.jsonl"
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        found = _WRITTEN.search(line)
        last = float(found[1]) if found else last
    return last


class HistoryWriter(Callback):
    """The first callback of every run: write a record before any other callback sees its scalars, or ends the run."""

    def __init__(self, file: MetricsFile) -> None:
        self.file = file

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars."""
        self.file.append(step, scalars)


_MARK = f', "{CHECK}": "'.encode()

_WRITTEN = re.compile(rf'"{TIME}": ([\d.]+)'.encode())


def _line(record: Mapping[str, Any], seed: int) -> bytes:
    # Python's own word for a number that is not finite, such as NaN, becomes a string.
    numbers = {tag: value if math.isfinite(value) else json.dumps(value) for tag, value in record.items()}
    text = json.dumps(numbers, allow_nan=False).encode().removesuffix(b"}")
    return text + _MARK + _sealed(text, seed)


def _sealed(text: bytes, seed: int) -> bytes:
    return f'{zlib.crc32(text, seed):08x}"}}\n'.encode()


def _is_before(line: bytes, since: int) -> bool:
    """Tell whether a line is of a step before `since`, without reading all of it."""
    step = line.removeprefix(STEP).partition(b",")[0] if since and line.startswith(STEP) else b""
    return step.isdigit() and int(step) < since


def _parsed(line: bytes, seed: int) -> dict[str, Any] | None:
    """Return a line's record; None for a damaged one."""
    text, mark, seal = line.rpartition(_MARK)
    if mark and seal.rstrip(b"\n") != _sealed(text, seed).rstrip(b"\n"):
        return None
    try:
        record = json.loads(line)
        if type(record["step"]) is int:
            for key in (CHECK, TIME):
                record.pop(key, None)
            for tag, value in record.items():
                if type(value) is not float and type(value) is not int:
                    record[tag] = float(value)
            return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return None
