"""Runs as processes that can be killed: forked from this one, which has imported JAX, or started from nothing.

A forked child has everything imported but no JAX backend, no thread and no open file of a run; it lives and dies as any
other process does, and saves the two seconds that the imports take. The plugins' own imports and all of composing,
tracing, compiling and training happen in the child.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import framework.commands.cli
import framework.runs.python_api
import framework.runs.run
from framework.runs import signals

ROOT = Path(__file__).parents[2]
PATIENCE = 1200.0
"""Seconds after which a child hangs, by far more than any run here takes."""


class Child:
    """A process of ours, by its id."""

    def __init__(self, pid: int) -> None:
        self.pid, self.code = pid, None

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if found else None
        return self.code

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Wait for its end; None if it does not come."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.code

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended: its id is not given to another one before it was waited for."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def end(self) -> int | None:
        """Kill it and wait."""
        self.send(signal.SIGKILL)
        return self.wait()


def fork(
    words: Sequence[str], errors: Path, environment: Mapping[str, str] | None = None, prepare: Callable[[], None] = bool
) -> Child:
    """Run the command line in a forked child; stdout and stderr are appended to a file.

    Args:
      words: of the command line.
      errors: the file.
      environment: variables to set before the command line is run.
      prepare: called in the child before that, such as to break something.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal between the fork and the first line of the command would find neither's handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.CAUGHT)
    pid = os.fork()
    if pid == 0:
        os._exit(_child(words, errors, environment or {}, prepare))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.CAUGHT)
    return Child(pid)


def start(words: Sequence[str], errors: Path, environment: Mapping[str, str] | None = None, umask: int = -1) -> Child:
    """Run the command line in an interpreter of its own, from nothing; a umask of -1 is the one in force."""
    with errors.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "framework", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(environment or {})},
            cwd=errors.parent,
            start_new_session=True,
            umask=umask,
        )
    process.returncode = 0  # it is waited for by its id
    return Child(process.pid)


def _child(
    words: Sequence[str], errors: Path, environment: Mapping[str, str], prepare: Callable[[], None]
) -> int | None:
    try:
        os.setsid()
        file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, file), (2, file)):
            os.dup2(source, target)
        os.environ.update(environment)
        os.chdir(errors.parent)
        signals.leave_when_asked()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.CAUGHT)
        prepare()
        framework.commands.cli.main(words)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
