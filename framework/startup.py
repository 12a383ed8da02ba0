"""The start of a run: the import of JAX, and Python's cyclic garbage collector, which is made to run seldom."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from framework.errors import ConfigError

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


def import_jax() -> None:
    """Import JAX.

    Raises: ConfigError naming the variable of the environment that it refuses.
    """
    try:
        import jax  # noqa: F401
    except ValueError as error:
        names = (name for name in os.environ if name.startswith("JAX_") and name.lower() in str(error).lower())
        raise ConfigError(f"{error}; unset it.", key=next(names, "jax")) from error
