"""Files of named arrays: .npz archives, folders of .npy files, CSV tables. Nothing in them is ever executed.

Batches are float32 and int32. What these cannot hold is refused, or told where little is lost.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from framework.errors import DataError, nearest

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    NotImplementedError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)

LOGGER = logging.getLogger("framework")

RATIO = 100  # bytes that one of a compressed archive may stand for, so that a small file is no large one
FREE = 1 << 26  # bytes that may be had at any ratio: labels in order pack very well


class Table(NamedTuple):
    """A file of named arrays.

    Attributes:
      names: what there is.
      get: `get(name) -> array`, reading it.
      fields: which arrays make up a batch unless the user says so.
      where: the place of a row, counted from 0, in words.
    """

    names: Sequence[str]
    get: Callable[[str], np.ndarray]
    fields: Mapping[str, Any]
    where: Callable[[int], str] = lambda row: f"row {row + 1} (index {row})"


class Split(NamedTuple):
    """The examples of a file.

    Attributes:
      examples: a pytree of float32 and int32 arrays [N, ...].
      where: the file and place of a row, counted from 0, in words.
      fields: the name of each array, or names set side by side.
    """

    examples: dict[str, Any]
    where: Callable[[int], str]
    fields: Mapping[str, Any]


def read_split(path: str, fields: Mapping[str, Any] | None) -> Split:
    """Read a split from a file.

    Args:
      path: an .npz file, a .csv file with a header, or a folder of .npy files.
      fields: for each leaf of a batch its name in the file, or several names; nested as the batch shall be.

    Raises: DataError naming the file, and the line or column where there is one.
    """
    place = Path(path).expanduser()
    try:
        table = _open(place)
        fields = table.fields if fields is None else fields
        examples = _pick(table, fields, lambda text: LOGGER.warning("data: %s: %s.", place, text))
        return Split(examples, lambda row: f"{place}, {table.where(row)}", fields)
    except FileNotFoundError as error:
        raise DataError(f"{place} does not exist, expected a file or folder; seen from {Path.cwd()}.") from error
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{place}: {reason.rstrip('.')}.") from error


def _open(place: Path) -> Table:
    if place.is_dir():
        return _open_folder(place)
    place.stat()  # raises if there is nothing
    if not place.is_file():  # to open a pipe waits for its writer
        raise ValueError("found no regular file, expected one")
    openers = {".npz": _open_npz, ".csv": _open_csv}
    if place.suffix.lower() not in openers:
        raise ValueError("found another kind of file, expected .npz, .csv or a folder of .npy files")
    return openers[place.suffix.lower()](place)


def _open_npz(place: Path) -> Table:
    if not zipfile.is_zipfile(place):
        raise ValueError("found no complete zip archive, expected one, as np.savez writes")

    def get(name: str) -> np.ndarray:
        with zipfile.ZipFile(place) as archive:
            member = archive.getinfo(f"{name}.npy")
            if member.file_size > max(FREE, RATIO * member.compress_size):
                raise ValueError(
                    f"found {member.file_size} bytes packed into {member.compress_size} as '{name}', expected at most "
                    f"{RATIO} times as many; np.savez stores them as they are"
                )
            with archive.open(member) as file:
                return _read_array(file, member.file_size, name)

    with zipfile.ZipFile(place) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    return Table(names, get, {"inputs": "inputs", "targets": "targets"})


def _open_folder(place: Path) -> Table:
    def get(name: str) -> np.ndarray:
        path = place / f"{name}.npy"
        with path.open("rb") as file:
            return _read_array(file, path.stat().st_size, name)

    names = sorted(path.stem for path in place.glob("*.npy") if path.is_file())
    return Table(names, get, {"inputs": "inputs", "targets": "targets"})


def _read_array(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """Read an array in NumPy's format, if its header promises what a file of `size` bytes can hold."""
    major, _ = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(f"found Python objects or no array as '{name}', expected numbers")
    count, held = math.prod(shape), size - file.tell()
    if min(shape, default=0) < 0 or count * dtype.itemsize != held:
        raise ValueError(
            f"found a header for {count * dtype.itemsize} bytes as '{name}', expected the {held} there are"
        )
    if held > (memory := _available_memory()):
        raise ValueError(f"found {held} bytes as '{name}', expected at most the {memory} of free memory")
    content = file.read(held)
    if len(content) != held:
        raise ValueError(f"found {len(content)} bytes as '{name}', expected {held}")
    array = np.frombuffer(content, dtype, count)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _available_memory() -> int:
    """Return the free memory of this machine, or of the process's container, in bytes."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        found += [int(line[1]) << 10] if line else []
    return min(found)


def _open_csv(place: Path) -> Table:
    numbered = [(n, line) for n, line in enumerate(place.read_text("utf-8-sig").splitlines(), 1) if line.strip()]
    if len(numbered) < 2:
        raise ValueError(f"found {len(numbered)} lines, expected a header and at least one row")
    numbers, lines = zip(*numbered, strict=True)
    names = [name.strip() for name in next(csv.reader(lines[:1]))]
    if any(_is_number(name) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"found the first line {lines[0]!r:.60}, expected a header of distinct column names")
    for mark, name in {";": "semicolons", "\t": "tabs"}.items():
        if len(names) == 1 and mark in lines[0]:
            raise ValueError(f"found a header with {name} between its columns, expected commas; replace them")
    try:
        values = np.loadtxt(lines[1:], np.float64, comments=None, delimiter=",", quotechar='"', ndmin=2)
    except ValueError as error:
        raise _culprit(numbered[1:], names) or error from error
    if values.shape[1] != len(names):
        raise _culprit(numbered[1:], names) or ValueError(f"found {values.shape[1]} columns, expected {len(names)}")

    def get(name: str) -> np.ndarray:
        index = names.index(name)
        column = values[:, index]
        if not np.array_equal(column, np.rint(column)):
            return column
        if np.abs(column).max(initial=0) < 2**53:
            return column.astype(np.int64)
        with contextlib.suppress(ValueError):  # a number such as 1e300 is as exact as it was written
            return np.array([int(cells[index]) for cells in csv.reader(lines[1:])])
        return column

    fields = {"inputs": [name for name in names if name != "target"], "targets": "target"}
    return Table(names, get, fields, lambda row: f"line {numbers[row + 1]}")


def _culprit(numbered: Sequence[tuple[int, str]], names: Sequence[str]) -> ValueError | None:
    """Find the first line of a table that does not fit its header; lines and columns count from 1, as in editors."""
    for number, line in numbered:
        cells = next(csv.reader([line]))
        if len(cells) != len(names):
            return ValueError(
                f"line {number}: found {len(cells)} columns under a header of {len(names)}, expected as many"
            )
        for column, (name, cell) in enumerate(zip(names, cells, strict=True), 1):
            if not cell.strip() or not _is_number(cell):
                return ValueError(f"line {number}, column {column} ('{name}'): found {cell!r:.40}, expected a number")
    return None


def _pick(table: Table, node: Any, warn: Callable[[str], None]) -> Any:
    """Read the arrays that the leaves of a nested mapping name."""
    if isinstance(node, Mapping):
        return {key: _pick(table, child, warn) for key, child in node.items()}
    names = [node] if isinstance(node, str) else list(node)
    for name in names:
        if name not in table.names:
            raise ValueError(f"found nothing called '{name}', expected it to be there.{nearest(name, table.names)}")
    if isinstance(node, str):
        array = _real(node, table.get(node))
        return array.astype(np.int32) if _fits_int32(array) else _single(table, node, array, warn)
    return np.stack([_single(table, name, _real(name, table.get(name)), warn) for name in names], axis=1)


def _fits_int32(array: np.ndarray) -> bool:
    """Tell whether an array holds integers that fit; those beyond become float32, as floats do."""
    limits = np.iinfo(np.int32)
    return array.dtype.kind != "f" and (not array.size or limits.min <= array.min() <= array.max() <= limits.max)


def _real(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array of finite real numbers as it is.

    Raises: ValueError if it is something else.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"found '{name}' with dtype {array.dtype}, expected real numbers")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise ValueError(f"found values in '{name}' that are not finite, the first in row {row + 1}, expected none")
    return array


COARSE = 1e-3
"""Rounding errors beyond this share of a column's range are a loss of what it says."""


def _single(table: Table, name: str, array: np.ndarray, warn: Callable[[str], None]) -> np.ndarray:
    """Cast to float32, if that keeps what the numbers say.

    Raises: ValueError, with the first row, if rounding moves them by more than `COARSE` of their range, or makes most
      of them equal, as it does to time stamps. What whole numbers lose otherwise is told as a warning.
    """
    if array.dtype in (np.float16, np.float32, np.int8, np.int16, np.uint8, np.uint16, np.bool_) or not array.size:
        return array.astype(np.float32)
    wide, rest = _in_float64(array)
    if np.abs(wide).max() > np.finfo(np.float32).max:
        raise ValueError(f"found values in '{name}' beyond float32, expected up to {np.finfo(np.float32).max:.2g}")
    single = wide.astype(np.float32)
    lost = np.abs(single - wide - rest)
    if not lost.any():
        return single
    spread = _spread(array)
    coarse = (lost.max(axis=0) > COARSE * spread) & (spread > 0)
    suspicious = (lost.max(axis=0) > COARSE**2 * spread) & (spread > 0)
    distinct, kept = (len(np.unique(x)) if array.ndim == 1 and suspicious.any() else 0 for x in (array, single))
    if coarse.any() or kept < distinct / 2:
        counts = f": {distinct} different ones become {kept}" if distinct else ""
        place = tuple(int(index) for index in np.argwhere(lost)[0])
        raise ValueError(
            f"found values in '{name}' that float32 cannot tell apart{counts}, such as {array[place]} in "
            f"{table.where(place[0])}; subtract an offset, such as the first time stamp, and scale them"
        )
    if (wide == np.rint(wide)).all():
        warn(f"'{name}' holds whole numbers beyond 2**24, which float32 rounds by up to {lost.max():g}")
    return single


def _in_float64(array: np.ndarray) -> tuple[np.ndarray, Any]:
    """Return numbers as float64, and what that leaves out of integers of more than 53 bits."""
    if array.dtype.kind == "f":
        return array.astype(np.float64), 0.0
    highest = np.nextafter(float(np.iinfo(array.dtype).max), 0)
    wide = np.minimum(array.astype(np.float64), highest)  # the next number is beyond the dtype
    return wide, (array - wide.astype(array.dtype)).astype(np.int64).astype(np.float64)


def _spread(array: np.ndarray) -> np.ndarray:
    """Return the range of the numbers along the first axis, float64; of integers, exactly."""
    high, low = array.max(axis=0, keepdims=True), array.min(axis=0, keepdims=True)
    if array.dtype.kind == "f":
        return (high.astype(np.float64) - low.astype(np.float64))[0]
    return (high.astype(np.uint64) - low.astype(np.uint64))[0].astype(np.float64)  # which wraps around twice


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return "_" not in text  # Python's own notation, such as 1_000, which a table's reader does not take
