"""Points in processes of their own, some at once."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from framework.api import Here, Job, Launcher, Outcome, Size
from framework.errors import ConfigError

POLL = 0.02
"""Seconds between two looks for processes that have ended."""

GRACE = 60.0
"""Seconds that a process has to save its state, when the sweep is stopped."""


def processes(workers: Size | None = None, cores: Size | None = None) -> Launcher:
    """Train each point in a process of its own: a crash, a leak or a plugin that misbehaves harms no other point.

    Each process gets a GPU of its own where there are some.

    Args:
      workers: processes at once; null takes one for each GPU, and without any one for every two cores, at least 2.
      cores: cores that each process is kept to; null lets the system share them all. The number of cores can change
        the last bits of sums.

    Raises: ConfigError if the workers need more cores than there are.
    """
    devices, usable = gpus(), sorted(os.sched_getaffinity(0))
    slots = workers or len(devices) or max(2, len(usable) // 2)
    if cores is not None and cores * slots > len(usable):
        text = f"{slots} workers with {cores} cores each need more than the {len(usable)} that there are."
        raise ConfigError(text, key="cores")
    return Processes(slots, devices, [] if cores is None else usable, cores or 0)


class Running(NamedTuple):
    """A process at work."""

    job: Job
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    slot: int


class Processes(Launcher):
    """Worker processes. One that ends makes room for the next at once."""

    def __init__(self, slots: int, gpus: list[str], usable: list[int], cores: int) -> None:
        self.slots, self._gpus, self._usable, self._cores = slots, gpus, usable, cores

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Keep all slots busy."""
        running: list[Running] = []
        try:
            is_over = False
            while running or not is_over:
                while not is_over and len(running) < self.slots:
                    job = next(jobs, _NONE_LEFT)
                    is_over = job is _NONE_LEFT
                    if is_over or job is None:
                        break
                    running.append(self._start(job, running))
                ended = [each for each in running if each.process.poll() is not None]
                for each in ended:
                    running.remove(each)
                    yield _outcome(each)
                if not ended:
                    time.sleep(POLL)
        finally:
            _stop(running)

    def _start(self, job: Job, running: list[Running]) -> Running:
        taken = {each.slot for each in running}
        slot = next(each for each in range(self.slots) if each not in taken)
        env = dict(os.environ)
        if self._gpus:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        own = self._usable[slot * self._cores : (slot + 1) * self._cores] if self._cores else []
        command = ["taskset", "-c", ",".join(map(str, own)), *job.command] if own else list(job.command)
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # In a session of its own, so that a key press stops the driver alone, which then stops the workers in order.
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
        return Running(job, process, errors, slot)


_NONE_LEFT: Any = object()


def _outcome(each: Running) -> Outcome:
    code = each.process.returncode
    with each.errors as file:
        file.seek(0)
        lines = file.read().decode(errors="replace").splitlines()
    if code < 0:
        reason = f"its process was ended by {signal.Signals(-code).name}"
        return Outcome(each.job.number, each.job.attempt, "lost", code, reason)
    reason = next((line for line in reversed(lines) if line.startswith("error[")), lines[-1] if lines else "")
    return Outcome(each.job.number, each.job.attempt, "ended", code, reason if code else "")


def _stop(running: list[Running]) -> None:
    """Ask all that still run to save their state and end; kill those that do not."""
    for each in running:
        with suppress(ProcessLookupError):
            each.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE
    for each in running:
        try:
            each.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()
        each.errors.close()


def gpus() -> list[str]:
    """Return the GPUs that this process may use, without an import of JAX, which would take them."""
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each.strip() for each in visible.split(",") if each.strip()]
    return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
