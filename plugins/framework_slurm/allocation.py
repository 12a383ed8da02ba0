"""The program of one job of Slurm: command lines of points, side by side, which save before the time is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from framework.api import last_words, start_command

POLL = 0.2
"""Seconds between two looks for processes that have ended."""


class Work(NamedTuple):
    """One point of an allocation.

    Attributes:
      name: of its files, `<number>-<attempt>`.
      command: its command line.
    """

    name: str
    command: tuple[str, ...]


class Allocation(NamedTuple):
    """The points of one job. Each task of the job calls it; of several, all take part in the one point.

    Attributes:
      work: the points.
      folder: of the results, on a disk that all machines share.
      cwd: the folder in which the sweep was begun.
      per_device: points that share a GPU, or the processors where there is none.
    """

    work: tuple[Work, ...]
    folder: str
    cwd: str
    per_device: int

    def __call__(self) -> None:
        """Run all command lines to their end, and write down how each ended as soon as it does."""
        first = int(os.environ.get("SLURM_PROCID", "0")) == 0
        running = {place: self._started(place, each, first) for place, each in enumerate(self.work)}

        # Slurm signals this process alone, or its group as well; a second signal would end a run at once.
        def end(number: int, frame: object) -> None:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for process in running.values():
                if process.poll() is None:
                    process.terminate()

        signal.signal(signal.SIGUSR2, end)
        signal.signal(signal.SIGTERM, end)
        while running:
            for place, process in list(running.items()):
                if process.poll() is not None:
                    if first:
                        self._write(self.work[place], process.returncode)
                    del running[place]
            time.sleep(POLL)

    def _started(self, place: int, work: Work, first: bool) -> subprocess.Popen[bytes]:
        environment, command = {}, list(work.command)
        gpus = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        if gpus and len(self.work) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[place // self.per_device % len(gpus)]
        if self.per_device > 1:  # a process takes three quarters of a GPU's memory by itself
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / self.per_device:.3f}"
        if not first:
            command.append("--follow")
        with (Path(self.folder) / f"{work.name}.log").open("ab") as log:
            return start_command(command, log, self.cwd, environment)

    def _write(self, work: Work, code: int) -> None:
        path, draft = (Path(self.folder) / f"{work.name}{ending}" for ending in (".json", ".partial"))
        said = (Path(self.folder) / f"{work.name}.log").read_text(errors="replace")
        draft.write_text(json.dumps({"exit_code": code, "reason": last_words(said)}))
        draft.replace(path)


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """Return how a point ended, as "exit_code" and "reason"; None if it has not written that."""
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
