"""Sweeps from a script or a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framework.startup import seldom_collected
from framework.sweeps import folder as folders
from framework.sweeps import plan as plans
from framework.sweeps.ledger import Ledger
from framework.sweeps.results import Results, results_of
from framework.sweeps.start import begin, drive, recorded, show


@seldom_collected()
def sweep(overrides: Sequence[str], config_dir: str | Path | None = None) -> Results:
    """Train all points, as `python -m framework -m …` does, or go on with the sweep of the same words.

    Args:
      overrides: words of a command line, of which some list values, such as `["+experiment=mnist", "seed=0,1,2"]`.
      config_dir: a folder with more configs, as `--config-dir`.

    Returns: the table. Points that failed are in `failed`, and raise nothing; `records()` gives plain mappings, and
      `frame()` a pandas DataFrame.

    Raises: FrameworkError if the words are wrong, or a signal ends the sweep.
    """
    folder = begin(plans.read(list(overrides), None if config_dir is None else str(config_dir)))
    drive(folder, show)
    return results(folder)


def results(folder: str | Path) -> Results:
    """Return the results of a sweep, also of one that goes on.

    Raises: StorageError if the folder is no sweep.
    """
    path = folders.check(Path(folder))
    with Ledger(folders.ledger_of(path)) as ledger:
        return results_of(path, ledger, recorded(ledger)[1])
