"""Columns of values as a file: CSV, npz, or Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from framework.errors import ConfigError, writing

ENDINGS = (".csv", ".npz", ".parquet")


def check(path: Path, endings: tuple[str, ...] = ENDINGS) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises: ConfigError if its ending is unknown, its folder is missing, or pyarrow is needed and not installed.
    """
    if path.suffix not in endings:
        raise ConfigError(f"{path} has the ending '{path.suffix}', expected one of {', '.join(endings)}.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.absolute().parent}; make it first.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            text = f"{path} needs pyarrow, which is not installed; pip install pyarrow, or take .csv or .npz."
            raise ConfigError(text) from error


def write(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns [N] of one length.

    Raises: StorageError if the file cannot be written.
    """
    with writing(path):
        if path.suffix == ".csv":
            with path.open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(columns)
                rows.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        elif path.suffix == ".npz":
            np.savez(path, **columns)  # pyright: ignore[reportArgumentType]
        else:
            import pyarrow  # pyright: ignore[reportMissingImports]
            import pyarrow.parquet  # pyright: ignore[reportMissingImports]

            pyarrow.parquet.write_table(pyarrow.table(dict(columns)), path)
