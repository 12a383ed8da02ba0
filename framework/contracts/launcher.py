"""Launchers: the contract of what trains the jobs of a sweep, here, in processes, or on a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Literal, NamedTuple, Protocol

Ended = Literal["ended", "preempted", "lost"]
"""Ends of a job: by itself, well or not; taken away by a scheduler; or nobody knows, as after a kill."""


class Job(NamedTuple):
    """One training, as plain values that JSON can hold.

    Attributes:
      number: of the point in its sweep, from 1.
      attempt: how often the point was begun, from 1. A run that was cut goes on in its folder.
      words: overrides of the run, which name its folder too.
      directory: the run folder.
      command: the command line of a process that trains it, in the folder where the sweep was begun. It keeps the
        lease of the point, and reports to the ledger. Its exit code is that of the run.
    """

    number: int
    attempt: int
    words: tuple[str, ...]
    directory: str
    command: tuple[str, ...]


class Outcome(NamedTuple):
    """The end of one job, as plain values. What the run itself recorded counts more.

    Attributes:
      number: of the job.
      attempt: of the job.
      how: it ended.
      exit_code: of its process; None if that is not known.
      reason: one line, such as the last one on stderr; "" if all is well.
    """

    number: int
    attempt: int
    how: Ended = "ended"
    exit_code: int | None = 0
    reason: str = ""


class Here(Protocol):
    """Training in this very process, for launchers that do so. JAX is imported by the first call."""

    def train(self, job: Job) -> Outcome:
        """Train one job; whatever goes wrong is in the outcome.

        Raises: InterruptError after a signal.
        """
        ...

    def groups(self, jobs: Sequence[Job]) -> list[tuple[Job, ...]]:
        """Put jobs together that one program can train, since they differ in seeds and single real numbers alone.

        Returns: each job once, in groups of one or more, in the order of their first jobs.
        """
        ...

    def train_together(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Train a group of `groups` as one program, each job with a run folder of its own.

        Raises: InterruptError after a signal.
        """
        ...

    def pays_together(self, jobs: Sequence[Job]) -> tuple[bool, str]:
        """Measure for about a second whether a group is faster as one program, and say the reason."""
        ...

    def say(self, line: str) -> None:
        """Show a line, such as the reason of a choice."""
        ...


class Launcher(ABC):
    """A way to train many jobs. It knows no search and no ledger.

    Attributes:
      slots: number of jobs that run at once; the driver makes no more of them ready than it has to.
    """

    slots: int = 1

    @abstractmethod
    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Train all jobs, and yield an outcome as each ends.

        Take the next job when a slot is free. Where `jobs` gives None, there is none at the moment: ask again after the
        next outcome, or after a moment if nothing runs. When the generator is closed, stop what still runs.
        """

    def alive(self, job: Job) -> bool | None:
        """Tell whether a job runs that such a launcher began, in this process or an earlier one; None if unknown."""
        return None


SIGNALLED = (129, 130, 143)
"""Exit codes of a run that a signal stopped, after it saved its state."""


def start_command(
    command: Sequence[str], output: IO[bytes], cwd: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the command line of a job, for launchers whose own process stands beside it.

    It has a session of its own, so that a signal to a group reaches it by this process alone: a second signal would end
    a run at once. If this process is killed, the run gets SIGTERM, and saves its state.

    Args:
      command: of the job.
      output: takes what it prints.
      cwd: the folder in which the sweep was begun; None if that is the present one.
      environment: variables that win over those of this process.
    """
    guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*guard, *command],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def last_words(output: str) -> str:
    """Return the last error among the lines that a run has printed, or the last line."""
    lines = output.splitlines()
    return next((line for line in reversed(lines) if line.startswith("error[")), lines[-1] if lines else "")


def outcome_of(job: Job, code: int, words: str) -> Outcome:
    """Return the outcome of a job from the exit code of its process, negative for a signal, and its last words."""
    if code < 0:
        text = f"its process was ended by {signal.Signals(-code).name}"
        return Outcome(job.number, job.attempt, "lost", code, text)
    return Outcome(job.number, job.attempt, "preempted" if code in SIGNALLED else "ended", code, words if code else "")
