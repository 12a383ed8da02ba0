"""The machine while a trial runs: how much of it others took."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIMIT = 0.05
"""Share of all cores that others may take before a trial counts as disturbed."""

_STAT = Path("/proc/stat")


class Load:
    """Watches the machine from its making on; children count as ours once they were waited for."""

    def __init__(self) -> None:
        self._since, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def foreign(self) -> float:
        """Share of all cores that was burnt by other processes, or withheld by a hypervisor; nan where unknown."""
        capacity = (time.monotonic() - self._since) * (os.cpu_count() or 1)
        return max(0.0, _busy_seconds() - self._busy - (_own_seconds() - self._own)) / capacity


def await_quiet(patience: float) -> None:
    """Wait for a second in which others leave the machine alone, at most `patience` seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        load = Load()
        time.sleep(min(1.0, patience))
        if not load.foreign() > LIMIT:
            return


def describe() -> dict[str, Any]:
    """Processor, cores and versions."""
    packages = ("framework", "jax", "jaxlib", "optax", "numpy", "torch", "lightning", "keras", "flax")
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def _busy_seconds() -> float:
    """Time that all cores spent on anything but waiting, since boot."""
    if not _STAT.exists():
        return float("nan")
    user, nice, system, _idle, _wait, *interrupts_and_steal = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
