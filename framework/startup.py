"""The start of a run: Python's cyclic garbage collector, which slows it, is made to run seldom."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 100_000
"""New containers between two collections. Imports, tracing and lowering make millions that stay. The default of 700
takes a tenth of the time to the first step to visit them again and again; steps make hardly any."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Collect seldom inside the context, and restore the collector's threshold afterwards."""
    before = gc.get_threshold()
    if before[0]:  # 0 is off
        gc.set_threshold(max(SELDOM, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
