"""The runs of one check, each a process of its own, which is killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, NamedTuple

from framework.console.terminal import Say, silent
from framework.errors import FrameworkError, InterruptError
from framework.runs import signals
from framework_verify import trail
from framework_verify.trail import Attempt
from framework_verify.witness import Orders

Asked = Callable[[], Signals | None]


class Failure(FrameworkError):  # noqa: N818 - of a run, not of this check
    """A run that does not come to its end, with its own exit code."""

    kind = "run"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Runs(NamedTuple):
    """The way in which the runs of one check are started.

    Attributes:
      work: folder of all runs.
      words: of the command line.
      config_dir: a folder of configs of one's own.
      settings: by config key, on top of the words.
      every: updates between two checkpoints.
      asked: returns the signal that asks to stop, if one came.
      say: is told what goes on.
    """

    work: Path
    words: Sequence[str]
    config_dir: str | None
    settings: Mapping[str, Any]
    every: int
    asked: Asked
    say: Say = silent


def run(runs: Runs, name: str, fatal: Sequence[int], saved: tuple[int, int] = (0, 0)) -> list[Attempt]:
    """Make one run, killed at steps and started again after each; a run that has ended before is left as it is.

    Raises: Failure if it ends in another way; InterruptError if a signal asks to stop.
    """
    path = runs.work / f"{name}.jsonl"
    settings = {**runs.settings, "run.dir": str(runs.work / name)}
    for attempt, step in enumerate([*fatal, 0]):
        orders = Orders(runs.words, runs.config_dir, settings, str(path), attempt, step, runs.every, saved)
        runs.say(f"run '{name}'" + (f", to be killed at step {step}" if step else ", to its end"))
        errors = runs.work / f"{name}.{attempt}.log"
        code = _start(orders, errors, runs.asked)
        if code == 0:
            break
        if code != -SIGKILL or not step:
            lines = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
            raise Failure(f"the run ended with {code}: {lines[-1] if lines else 'it says nothing'}", max(code, 1))
    return trail.read(path)


def _start(orders: Orders, errors: Path, asked: Asked) -> int:
    """Return the exit code of a process that follows the orders."""
    # The working folder is on the new interpreter's path only if it is on this one's.
    flags = [] if str(Path.cwd()) in sys.path or "" in sys.path else ["-P"]
    command = [sys.executable, *flags, "-m", "framework_verify.witness"]
    with errors.open("wb") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(orders._asdict()).encode())
        process.stdin.close()
        while True:
            try:
                return process.wait(0.1)
            except subprocess.TimeoutExpired:
                if (number := asked()) is not None:
                    process.kill()
                    code = signals.exit_code(number)
                    raise InterruptError(f"stopped by {number.name}: nothing was found out.", code) from None
