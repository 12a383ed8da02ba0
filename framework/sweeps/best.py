"""The best run of a sweep, where a trained model is asked for."""

from __future__ import annotations

from pathlib import Path

from framework.errors import StorageError
from framework.sweeps import folder as folders
from framework.sweeps.python_api import results


def best_run(path: str) -> str:
    """Return the run folder of a sweep's best point for SWEEP@best; any other path as it is.

    Raises: StorageError if no point of the sweep is done.
    """
    folder, at, word = path.rpartition("@")
    if not at or word != "best" or Path(path).exists() or not (Path(folder) / folders.LEDGER).is_file():
        return path
    found = results(folder)
    if found.best is None:
        raise StorageError(f"{folder} has no best point: none of its points is done.")
    return str(found.directory / found.best.directory)
