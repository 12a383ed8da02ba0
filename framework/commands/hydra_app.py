"""Hydra's own program, for sweeps, shell completion, and views of how a config is composed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from framework.config import search_path
from framework.config import words as typed
from framework.config.origins import Origins
from framework.config.overrides import rewrite
from framework.errors import ConfigError, InterruptError, exit_code_of, line_of

if TYPE_CHECKING:
    from framework.runs.run import Result

Job = Callable[[DictConfig], float | None]


def show(words: list[str], config_dir: str | None, flags: list[str]) -> None:
    """Print what Hydra's flags ask for, such as `--cfg=job`.

    Raises: ConfigError.
    """
    shown = io.StringIO()  # of an error that comes later, nothing shall be seen
    with redirect_stdout(shown):
        _run(words, config_dir, flags, lambda config: None)
    sys.stdout.write(shown.getvalue())


def sweep(words: list[str], config_dir: str | None, train: Callable[[list[str], str | None], Result]) -> int:
    """Train each job of a sweep; a job that fails does not keep the others from running.

    Args:
      words: overrides, of which some list values.
      config_dir: a folder of configs of one's own.
      train: takes the overrides of one job, and `config_dir`.

    Returns: the exit code of the first job that failed, else 0.

    Raises: ConfigError if the words cannot be read.
    """
    failures: list[Exception] = []
    jobs: list[str] = []

    def job(_: DictConfig) -> float | None:
        chosen = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        assert isinstance(chosen, list)
        overrides = [str(word) for word in chosen]
        jobs.append(" ".join(overrides))
        try:
            return train(overrides, config_dir).metrics.get("eval/loss")
        except Exception as error:
            typed = " ".join(word.removeprefix("++") for word in overrides)
            sys.stderr.write(f"{line_of(error)} (job {typed})\n")
            if isinstance(error, InterruptError):
                sys.exit(error.exit_code)  # who stops one job means the jobs that follow too
            failures.append(error)
            return None

    # Hydra writes the whole config of a sweep into its folder, secrets too; each run has a record of its own.
    with TemporaryDirectory(prefix="framework-") as scratch:
        _run(words, config_dir, [f"hydra.sweep.dir={scratch}", "--multirun"], job)
    if not jobs:
        raise ConfigError(f"the sweep has no job; nothing fits {' '.join(words)}.")
    return exit_code_of(failures[0]) if failures else 0


def _run(words: list[str], config_dir: str | None, more: list[str], job: Job) -> None:
    """Call Hydra's program as `hydra.main` does, but with words of ours where that reads `sys.argv`."""
    parser, sweeps = get_args_parser(), "--multirun" in more
    overrides, read = rewrite(words, sweeps=sweeps), {}
    with Origins(read, tuple(overrides)).locating(), search_path.session(read), _errors_raised():
        typed.read(overrides, sweeps=sweeps)
        if config_dir is not None and not Path(config_dir).expanduser().is_dir():
            raise ConfigError(f"{config_dir} is no folder.", key="config_dir")
        folder = [] if config_dir is None else [f"--config-dir={config_dir}"]
        given = parser.parse_args([*overrides, *more, *folder])
        version.setbase("1.3")
        _run_hydra(given, parser, job, "pkg://framework_conf", "config")


@contextmanager
def _errors_raised() -> Iterator[None]:
    """Let Hydra raise errors, where otherwise it prints them and exits."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
