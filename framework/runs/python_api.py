"""The framework from a script or a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framework.config import compose as configs
from framework.records.folder import check_whole
from framework.records.record import read_record
from framework.runs.run import Result
from framework.runs.run import resume as resume_config
from framework.runs.run import run as run_config
from framework.startup import seldom_collected
from framework.trained.evaluated import evaluate
from framework.trained.trained_model import load

__all__ = ["evaluate", "load", "resume", "run"]


@seldom_collected()
def run(
    overrides: Sequence[str] = (), config_dir: str | Path | None = None, recorded: str | Path | None = None
) -> Result:
    """Train, as `python -m framework …` does.

    Args:
      overrides: words of a command line, such as `["+experiment=mnist", "seed=1"]`.
      config_dir: a folder with more configs, as `--config-dir`.
      recorded: a run folder whose `config.yaml` is run again, instead of composing one.

    Raises: FrameworkError.
    """
    if recorded is not None:
        return run_config(configs.recorded(recorded, overrides, config_dir))
    return run_config(configs.compose(overrides, config_dir))


@seldom_collected()
def resume(run_folder: str | Path, overrides: Sequence[str] = (), force: bool = False) -> Result:
    """Go on with a stopped run, bit for bit as if it had not stopped; a finished one is left as it is.

    Args:
      run_folder: the folder of the stopped run.
      overrides: such as `["train.steps=2000"]`.
      force: allow overrides that change what the run computes.

    Raises: FrameworkError.
    """
    read_record(Path(run_folder))  # refuse what is no run folder before anything is written into it
    check_whole(Path(run_folder))
    return resume_config(Path(run_folder), configs.recorded(run_folder, overrides), force)
