"""Files of named arrays: .npz archives, folders of .npy files, CSV tables. Nothing in them is ever executed."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framework.errors import DataError, nearest

UNREADABLE = (OSError, EOFError, ValueError, MemoryError, csv.Error, zipfile.BadZipFile, zlib.error)


class Table(NamedTuple):
    """A file of named arrays.

    Attributes:
      names: what there is.
      get: `get(name) -> array`, reading it.
      fields: which arrays make up a batch unless the user says so.
    """

    names: Sequence[str]
    get: Callable[[str], np.ndarray]
    fields: Mapping[str, Any]


def read_split(path: str, fields: Mapping[str, Any] | None) -> dict[str, Any]:
    """A split from a file.

    Args:
      path: an .npz file, a .csv file with a header, or a folder of .npy files.
      fields: for each leaf of a batch its name in the file, or several names; nested as the batch shall be.

    Returns: a pytree of float32 and int32 arrays.

    Raises: DataError naming the file.
    """
    place = Path(path).expanduser()
    try:
        table = _open(place)
        return _pick(table, table.fields if fields is None else fields)
    except FileNotFoundError as error:
        raise DataError(f"{place} does not exist, expected a file or folder; seen from {Path.cwd()}.") from error
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{place}: {reason.rstrip('.')}.") from error


def _open(place: Path) -> Table:
    if place.is_dir():
        return _open_folder(place)
    place.stat()  # raises if there is nothing
    openers = {".npz": _open_npz, ".csv": _open_csv}
    if place.suffix.lower() not in openers:
        raise ValueError("found another kind of file, expected .npz, .csv or a folder of .npy files")
    return openers[place.suffix.lower()](place)


def _open_npz(place: Path) -> Table:
    if not zipfile.is_zipfile(place):
        raise ValueError("found no complete zip archive, expected one, as np.savez writes")

    def get(name: str) -> np.ndarray:
        with np.load(place, allow_pickle=False) as file:
            return _numbers(name, lambda: file[name])

    with np.load(place, allow_pickle=False) as file:
        return Table(file.files, get, {"inputs": "inputs", "targets": "targets"})


def _open_folder(place: Path) -> Table:
    def get(name: str) -> np.ndarray:
        return _numbers(name, lambda: np.load(place / f"{name}.npy", allow_pickle=False))

    names = sorted(path.stem for path in place.glob("*.npy"))
    return Table(names, get, {"inputs": "inputs", "targets": "targets"})


def _open_csv(place: Path) -> Table:
    lines = [line for line in place.read_text("utf-8-sig").splitlines() if line.strip()]
    if len(lines) < 2:
        raise ValueError(f"found {len(lines)} lines, expected a header and at least one row")
    names = [name.strip() for name in next(csv.reader(lines[:1]))]
    if any(_is_number(name) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"found the first line {lines[0]!r:.60}, expected a header of distinct column names")
    values = np.loadtxt(lines[1:], np.float64, comments=None, delimiter=",", quotechar='"', ndmin=2)
    if values.shape[1] != len(names):
        raise ValueError(f"found {values.shape[1]} columns under a header of {len(names)}, expected as many")

    def get(name: str) -> np.ndarray:
        column = values[:, names.index(name)]
        return column.astype(np.int64) if np.array_equal(column, np.rint(column)) else column

    return Table(names, get, {"inputs": [name for name in names if name != "target"], "targets": "target"})


def _pick(table: Table, node: Any) -> Any:
    """Read the arrays that the leaves of a nested mapping name."""
    if isinstance(node, Mapping):
        return {key: _pick(table, child) for key, child in node.items()}
    names = [node] if isinstance(node, str) else list(node)
    for name in names:
        if name not in table.names:
            raise ValueError(f"found nothing called '{name}', expected it to be there.{nearest(name, table.names)}")
    if isinstance(node, str):
        return _narrow(node, table.get(node))
    columns = np.stack([table.get(name) for name in names], axis=1)
    return _narrow(", ".join(names), columns.astype(np.float32))


def _narrow(name: str, array: np.ndarray) -> np.ndarray:
    """Give an array one of the two dtypes that batches have."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"found values in '{name}' that are not finite, expected none")
        return array.astype(np.float32)
    if array.dtype.kind not in "biu":
        raise ValueError(f"found '{name}' with dtype {array.dtype}, expected real numbers")
    limits = np.iinfo(np.int32)
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise ValueError(f"found integers in '{name}' beyond int32, expected up to {limits.max}")
    return array.astype(np.int32)


def _numbers(name: str, load: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return load()
    except ValueError as error:
        if "pickle" in str(error):
            raise ValueError(f"found Python objects or no array as '{name}', expected numbers") from None
        raise


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True
