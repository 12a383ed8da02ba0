"""States of jobs of Slurm: of squeue those that wait, run or ended lately, of sacct those before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

WAITS_OR_RUNS = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING")
"""States of a job that has not ended; STAGE_OUT and STOPPED are those of sites that know why."""

PREEMPTED = ("PREEMPTED", "TIMEOUT", "DEADLINE")
"""States of a job that the scheduler took away."""

PATIENCE = 60.0
"""Seconds that a command of Slurm may take."""


def states_of(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return the states of jobs, such as {"17_0": "RUNNING"}; those that nobody knows any more are missing.

    Returns: None if Slurm does not answer, so that nothing is known.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    listed = _asked("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={','.join(wanted)}")
    found = _read(listed or "")
    if older := [job for job in wanted if job not in found]:
        words = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={','.join(older)}")
        found |= _read(_asked("sacct", *words) or "")
    if listed is None and not found and not answers():
        return None
    return {job: found[job] for job in wanted if job in found}


def answers() -> bool:
    """Tell whether Slurm's controller answers."""
    return _asked("scontrol", "ping") is not None


def is_alive(job: str) -> bool | None:
    """Tell whether a job waits or runs; None if Slurm does not answer."""
    states = states_of([job])
    return None if states is None else states.get(job) in WAITS_OR_RUNS


def cancel(jobs: Iterable[str], *options: str) -> None:
    """Call scancel; that a job has ended already is no error."""
    _asked("scancel", *options, *jobs)


def _read(text: str) -> dict[str, str]:
    pairs = (line.split("|") for line in text.splitlines() if line.count("|") == 1)
    return {job.strip(): state.split()[0] for job, state in pairs if state.strip()}  # CANCELLED by 1000


def _asked(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
