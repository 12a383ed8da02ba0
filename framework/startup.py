"""Python's cyclic garbage collector during imports and runs, whose start is what it slows."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 100_000
"""New containers between two collections. Imports, tracing and lowering make millions that stay, over which the default
of 700 goes again and again, for a tenth of the time to the first step; steps make hardly any."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Collect seldom inside the context; what the collector was set to is put back afterwards."""
    before = gc.get_threshold()
    if before[0]:  # 0 is off
        gc.set_threshold(max(SELDOM, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
