"""Outputs of a model as a file that grows block by block: CSV, .npy or .npz. It has its name once it is whole."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from framework.api import PyTree, leaves_by_path
from framework.errors import ConfigError, StorageError, writing

ENDINGS = (".csv", ".npy", ".npz")

COLUMNS = 4096
"""Numbers of an example that a table takes; nobody reads a longer line."""


class Writer(Protocol):
    """Append the outputs of a block of examples, [n, ...], with their ids and the names of the classes, if any."""

    def __call__(self, ids: Sequence[Any], outputs: PyTree, predicted: Sequence[str] | None) -> None: ...


@contextmanager
def writer(path: Path, classes: Sequence[str]) -> Iterator[Writer]:
    """Open a file for outputs inside the context; it takes the place of an older one at the end.

    Args:
      path: its ending says the format.
      classes: names of the outputs of a classifier, or none.

    Raises: StorageError if it cannot be written; ConfigError if the outputs do not fit the format.
    """
    make = {".csv": _table, ".npy": _array, ".npz": _archive}[path.suffix]
    partial = path.with_name(f".{path.name}.partial")
    try:
        with writing(path), make(partial, classes) as write:
            yield write
        with writing(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _table(path: Path, classes: Sequence[str]) -> Iterator[Writer]:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        heads: list[str] = []

        def write(ids: Sequence[Any], outputs: PyTree, predicted: Sequence[str] | None) -> None:
            columns = _columns(outputs, classes)
            if not heads:
                heads[:] = columns
                rows.writerow(["id", *(["predicted"] if predicted is not None else []), *heads])
            texts = [[_number(value) for value in column] for column in columns.values()]
            named = [ids, *([predicted] if predicted is not None else [])]
            rows.writerows(zip(*named, *texts, strict=True))

        yield write


def _number(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, np.floating) else str(value)  # nine digits tell floats of 32 bits apart


def _columns(outputs: PyTree, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the numbers of outputs [n, ...] by column, [n]."""
    columns: dict[str, np.ndarray] = {}
    for path, leaf in leaves_by_path(outputs).items():
        name, flat = path or "output", np.asarray(leaf).reshape(len(leaf), -1)
        ends = classes if leaf.ndim == 2 and len(classes) == leaf.shape[1] else range(flat.shape[1])
        columns |= {(name if leaf.ndim == 1 else f"{name}_{end}"): flat[:, k] for k, end in enumerate(ends)}
    if len(columns) > COLUMNS:
        raise ConfigError(f"an example has {len(columns):,} outputs, too many for a table; write an .npz file.")
    return columns


@contextmanager
def _array(path: Path, classes: Sequence[str]) -> Iterator[Writer]:
    with path.open("wb") as file:
        grown = _Grown(file)

        def write(ids: Sequence[Any], outputs: PyTree, predicted: Sequence[str] | None) -> None:
            if not isinstance(outputs, np.ndarray):
                raise ConfigError("the model has several outputs; write an .npz file.")
            grown.add(outputs)

        yield write
        grown.close()


@contextmanager
def _archive(path: Path, classes: Sequence[str]) -> Iterator[Writer]:
    """Let each array grow in a file beside the archive, which takes them all at the end."""
    named: dict[str, list[Any]] = {"ids": [], "predicted": []}
    with ExitStack() as opened:
        parts: dict[str, tuple[Path, _Grown]] = {}

        def write(ids: Sequence[Any], outputs: PyTree, predicted: Sequence[str] | None) -> None:
            named["ids"].extend(ids)
            named["predicted"].extend(predicted or ())
            for name, leaf in leaves_by_path(outputs).items():
                name = f"outputs/{name}" if name else "outputs"
                if name not in parts:
                    place = path.with_name(f"{path.name}.{len(parts)}")
                    opened.callback(place.unlink, missing_ok=True)
                    parts[name] = place, _Grown(opened.enter_context(place.open("w+b")))
                parts[name][1].add(np.asarray(leaf))

        yield write
        with zipfile.ZipFile(path, "w") as archive:
            for name, (place, grown) in parts.items():
                grown.close()
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member, place.open("rb") as file:
                    while content := file.read(1 << 20):
                        member.write(content)
            texts: Mapping[str, Any] = {**named, "classes": list(classes)}
            for name, values in texts.items():
                if values:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)


class _Grown:
    """An .npy file that gets rows at its end: NumPy's header leaves room for a longer first axis."""

    def __init__(self, file: Any) -> None:
        self.file, self.rows, self.header = file, 0, {}

    def add(self, rows: np.ndarray) -> None:
        """Append rows [n, ...], all of one shape and dtype."""
        if not self.rows:
            self.header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False}
            self.shape = rows.shape[1:]
            self._head()
        if rows.shape[1:] != self.shape:
            raise StorageError(
                f"outputs have the shape {list(rows.shape[1:])} after {list(self.shape)}; write a table."
            )
        self.file.write(np.ascontiguousarray(rows).tobytes())
        self.rows += len(rows)

    def close(self) -> None:
        """Write the number of rows into the header."""
        self.file.seek(0)
        self._head()
        self.file.flush()

    def _head(self) -> None:
        np.lib.format.write_array_header_1_0(self.file, {**self.header, "shape": (self.rows, *self.shape)})
