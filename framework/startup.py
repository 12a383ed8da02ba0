"""The start and the end of a process: the import of JAX, the garbage collector, threads that plugins leave behind."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
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


PATIENCE = 20.0
"""Seconds at the end for threads of plugins, such as one that uploads what is left."""


def leave_soon(code: int, patience: float = PATIENCE) -> None:
    """End the process with a code, one line and no more waiting, if a thread keeps it alive after all is done.

    Python waits for ever for threads that are not daemons. Its last collections would take some 0.4 s to free memory
    that the process gives back anyway, so they are to leave out what is there.
    """
    gc.freeze()

    def watch() -> None:
        time.sleep(patience)
        others = [each for each in threading.enumerate() if each is not threading.main_thread()]
        if left := [each.name for each in others if not each.daemon]:
            sys.stdout.flush()
            os.write(2, f"all is done; leaving threads that did not end: {', '.join(left)}\n".encode())
            os._exit(code)

    threading.Thread(target=watch, name="leave_soon", daemon=True).start()
