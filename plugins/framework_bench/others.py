"""Other programs on the machine: how many processors they take while something is measured."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

NOTABLE = 0.1
"""Share of the processors from which on times are not to be trusted."""


class Others:
    """A watch over the processors from its making on."""

    def __init__(self) -> None:
        self._since, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def processors(self) -> float | None:
        """Return how many processors other programs, or a hypervisor, have taken on average; None where unknown."""
        taken = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        return None if math.isnan(taken) else max(0.0, taken) / max(time.monotonic() - self._since, 1e-9)


def warning(processors: float | None, count: int) -> str:
    """Return a line if other programs took a notable part of so many processors; else ""."""
    if processors is None or processors <= NOTABLE * count:
        return ""
    return (
        f"others: other programs took {processors:.1f} of {count} processors meanwhile, so that these times are too "
        "long; measure again when the machine is idle."
    )


def _busy_seconds() -> float:
    """Return the seconds that all processors spent on anything but waiting, since the machine started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return math.nan
    user, nice, system, _idle, _wait, *interrupts_and_steal = map(int, fields)
    return (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
