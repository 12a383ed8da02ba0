"""Launchers of Hydra that are installed, such as joblib, submitit and ray, as launchers of a sweep.

A command line chooses one, and no file can: `hydra/launcher=joblib hydra.launcher.n_jobs=4`. Hydra composes a config of
its own for that, in which none of ours is, and its launcher runs the command lines of the points.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig

from framework.config import search_path
from framework.config import words as typed
from framework.config.overrides import quoted
from framework.contracts.launcher import Here, Job, Launcher, Outcome, last_words, outcome_of, start_command
from framework.errors import ConfigError

LARGEST = 100_000
"""Points of a batch, if the command line sets no limit."""

PAUSE = 0.2
"""Seconds until the next question, where there is no job at the moment."""

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")


class Commands(NamedTuple):
    """The command lines of points, of which Hydra's launcher runs each somewhere.

    Attributes:
      commands: by point.
      cwd: the folder in which the sweep was begun.
    """

    commands: tuple[tuple[str, ...], ...]
    cwd: str

    def __call__(self, config: DictConfig) -> tuple[int, str]:
        """Run one to its end, and return its exit code and its last words."""
        with tempfile.TemporaryFile() as output:
            process = start_command(self.commands[config.point], output, self.cwd)
            try:
                code = process.wait()
            except BaseException:  # the run saves its state
                process.terminate()
                process.wait()
                raise
            output.seek(0)
            return code, last_words(output.read().decode(errors="replace"))


class HydraLauncher(Launcher):
    """One of Hydra's launchers. It takes a batch, and tells of it as a whole at its end."""

    def __init__(self, words: Sequence[str]) -> None:
        """Take the words of a command line.

        Args:
          words: `hydra/launcher=NAME`, options such as `hydra.launcher.n_jobs=4`, and `hydra.sweeper.max_batch_size`.

        Raises: ConfigError if a word cannot be read, or no launcher has that name.
        """
        self._words = tuple(words)
        found: dict[str, Any] = {each.key_or_group: each.value() for each in typed.read_launcher(words)}
        if "hydra/launcher" not in found:
            raise ConfigError("it goes with hydra/launcher=NAME.", key=next(iter(found)))
        self.slots = found.get(typed.BATCH) or LARGEST
        with tempfile.TemporaryDirectory() as folder:
            self._multirun((), folder)

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Hand the points that are ready to Hydra's launcher, batch by batch."""
        is_over = False
        while not is_over:
            ready: list[Job] = []
            while len(ready) < self.slots and (job := next(jobs, _NONE_LEFT)) is not None:
                if is_over := job is _NONE_LEFT:
                    break
                ready.append(job)
            if not ready:
                time.sleep(PAUSE)
                continue
            # Hydra's launchers of clusters write there, so it is on the disk that all machines share.
            folder = Path(ready[0].directory).absolute().parent
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".hydra-", dir=folder) as scratch:
                ends = self._multirun([job.command for job in ready], scratch)
            yield from (outcome_of(job, *end) for job, end in zip(ready, ends, strict=True))

    def _multirun(self, commands: Sequence[tuple[str, ...]], folder: str) -> list[tuple[int, str]]:
        """Let Hydra run command lines; without any, only compose its config.

        Raises: ConfigError for what Hydra refuses.
        """
        words = [*self._words, *QUIET, f"hydra.sweep.dir={quoted(folder)}", "hydra.mode=MULTIRUN"]
        before, base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
        GlobalHydra.instance().clear()
        setbase("1.3")
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with search_path.config_errors():
                theirs = Hydra.create_main_hydra2("sweep", create_config_search_path(None))
                if not commands:
                    theirs.compose_config(None, words, RunMode.MULTIRUN, with_log_configuration=False)
                    return []
                points = f"+point={','.join(map(str, range(len(commands))))}"
                batches = theirs.multirun(None, Commands(tuple(commands), str(Path.cwd())), [*words, points])
                return [job.return_value for batch in batches for job in batch]
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Hydra's launcher for Ray takes it
            GlobalHydra.instance().hydra, VersionBase.instance().version_base = before, base


_NONE_LEFT: Any = object()
