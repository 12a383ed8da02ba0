"""Memory of compiled steps, known before they run, and of the machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from framework.api import PyTree, TrainState
from framework.errors import ConfigError

SPARED = 0.9
"""Share of what is free that a step may take: the rest is for the interpreter, and for others."""


def needed(call: Callable[..., Any], state: TrainState, feed: PyTree) -> int:
    """Bytes that a compiled step holds while it runs, on the device that holds most; nothing is run.

    Its arguments, results and temporaries; a result that takes its argument's place counts once.

    Raises: ConfigError if the strategy does not compile; what XLA raises if it runs out of memory itself.
    """
    lower = getattr(call, "lower", None)
    if lower is None:
        raise ConfigError("strategy: its steps are not compiled, so their memory is not known; choose another one.")
    found = lower(state, feed).compile().memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
        + found.generated_code_size_in_bytes
    )


def budget() -> tuple[int, str]:
    """Bytes that one device's part of a step may hold here, and where that is from.

    Devices that report a limit, as GPUs and TPUs do, have their own memory. On a CPU all devices share what is free.

    Raises: ConfigError if neither is known.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(SPARED * limit), f"{SPARED:.0%} of a {device.device_kind}"
    free = available()
    if free is None:
        raise ConfigError("--memory: how much memory is free is not known here; expected a size, such as 8GiB.")
    count = jax.local_device_count()
    return int(SPARED * free / count), f"{SPARED:.0%} of the free memory" + (f" / {count} devices" * (count > 1))


def available() -> int | None:
    """Bytes of memory that this process can take without swapping: the kernel's estimate, or what its group may."""
    try:
        free = int(re.findall(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
    except (OSError, IndexError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no group of its own, or "max"
        return free
    return min(free, left)


def is_exhausted(error: Exception) -> bool:
    """Whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
