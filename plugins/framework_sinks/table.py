"""The metrics of a run as one table: `metrics.csv`, a row for each step."""

from __future__ import annotations

import csv as files
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from framework.api import Callback, Run
from framework.errors import ConfigError, StorageError


def csv(file: str = "metrics.csv") -> Callback:
    """Write all scalars as a CSV table in the run folder, with a row for each step and a column for each tag.

    A cell without a value is empty. The table is made from the history at the start, so that a resumed run goes on
    with the same one, and each step stands in it once. Media lie in the run folder as files anyway.

    Args:
      file: name of the table in the run folder.

    Raises: ConfigError if the name is a path.
    """
    if Path(file).name != file or file in ("", ".", ".."):
        raise ConfigError(f"csv: file is {file!r}, expected a name such as metrics.csv; it lies in the run folder.")
    return Table(file)


class Table(Callback):
    """A table that grows by rows, and is written anew when a tag comes that it has no column for."""

    def __init__(self, file: str) -> None:
        self._file = file

    def on_start(self, run: Run) -> None:
        """Write what the history holds."""
        self._path, self._history, self._tags = run.directory / self._file, run.history, []
        self._rewrite()

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add a row, or write the table anew for new columns, and where a step has a row already."""
        if step == self._last or any(tag not in self._tags for tag in scalars):
            self._rewrite()
        else:
            self._write("a", [[step, *(scalars.get(tag, "") for tag in self._tags)]])
            self._last = step

    def _rewrite(self) -> None:
        records = list(self._history.records())
        found = dict.fromkeys(tag for record in records for tag in record if tag != "step")
        self._tags = [*self._tags, *(tag for tag in found if tag not in self._tags)]
        rows = [[int(record["step"]), *(record.get(tag, "") for tag in self._tags)] for record in records]
        self._last = int(records[-1]["step"]) if records else None
        self._write("w", [["step", *self._tags], *rows])

    def _write(self, mode: str, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO(newline="")
        files.writer(text, lineterminator="\n").writerows(rows)
        try:
            with self._path.open(mode, newline="") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror or error}.") from error
