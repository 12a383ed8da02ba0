"""The processes that worked on a run, one after the other: `starts` in `run.json`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import jax

from framework.distributed import processes
from framework.errors import writing
from framework.records import provenance
from framework.records.history import last_written


def begun(code: provenance.Code | None, directory: Path, step: int, packages: Mapping[str, str]) -> dict[str, Any]:
    """Return the entry of a process that begins: what was typed, where, on which code and machine.

    Args:
      code: of the checkout; its patches are written into the run folder, of several processes by the first.
      directory: the run folder.
      step: where the process goes on.
      packages: versions that the run began with, from which others are told.

    Raises: StorageError if a patch cannot be written.
    """
    with writing(directory / "code-….patch"):
        git = provenance.write_code(code, directory) if processes.index() == 0 else None
    device, found = jax.local_devices()[0], provenance.packages()
    changed = {name: found.get(name) for name in {**packages, **found} if packages.get(name) != found.get(name)}
    return {
        "started": _clock(time.time()),
        "from_step": step,
        "typed": provenance.typed(),
        "folder": str(Path.cwd()),
        "git": git,
        **provenance.machine(),
        "devices": [str(each) for each in jax.local_devices()],
        "device_kind": device.device_kind,
        "device_software": str(device.client.platform_version).splitlines()[0],
        "process": os.getpid(),
        "processes": processes.count(),
        "packages_changed": changed,
    }


def ended(start: dict[str, Any], status: str, seconds: float) -> dict[str, Any]:
    """Return the entry of a process that ends, with its status, seconds and peak memory of host and devices."""
    return {
        **start,
        "ended": _clock(time.time()),
        "status": status,
        "seconds": round(seconds, 3),
        "peak_memory_mib": provenance.peak_memory_mib(),
        "peak_device_memory_mib": [peak for each in jax.local_devices() if (peak := _peak(each)) is not None] or None,
    }


def former(starts: Sequence[Any], directory: Path) -> list[Any]:
    """Return the entries of earlier processes; one that was killed ended with its last record."""
    if not starts or not isinstance(starts[-1], dict) or "ended" in starts[-1]:
        return list(starts)
    killed, last = dict(starts[-1], status="killed"), last_written(directory)
    began = _seconds(killed.get("started"))
    if last is not None and began is not None and last >= began:
        killed |= {"ended": _clock(last), "seconds": round(last - began, 3)}
    return [*starts[:-1], killed]


def total_seconds(starts: Sequence[Any]) -> float:
    """Return the seconds of all processes."""
    return round(sum(float(each.get("seconds") or 0) for each in starts if isinstance(each, dict)), 3)


def _peak(device: Any) -> int | None:
    """Return the largest memory that a device has had, in MiB; None where it does not count, as CPUs do not."""
    with suppress(RuntimeError):  # some backends refuse the question
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return None if peak is None else peak >> 20
    return None


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def _seconds(clock: object) -> float | None:
    try:
        return datetime.strptime(str(clock), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None
