"""The process of a run: it runs one at a time, is no forked copy of one that used JAX, and JAX has a device in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax._src import xla_bridge

from framework.errors import ConfigError, told

_RUNNING = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Run in one thread at a time: logs, signals and JAX's switches belong to the whole process.

    Raises: ConfigError if another thread runs, or if the process was forked after JAX was used.
    """
    if _is_forked():
        text = "this process was forked from one that had used JAX, whose threads are missing here; start it anew"
        raise ConfigError(f"{text}, such as by multiprocessing.get_context('spawn').")
    if not _RUNNING.acquire(blocking=False):
        raise ConfigError("another thread of this process is running; wait for it, or start a process for each run.")
    try:
        yield
    finally:
        _RUNNING.release()


def check_jax() -> None:
    """Check that the environment lets JAX work, and start its devices.

    Raises: ConfigError naming the variable that does not.
    """
    if str(jax.config.jax_transfer_guard).startswith("disallow"):  # pyright: ignore[reportAttributeAccessIssue]
        text = "it forbids transfers that building a run needs; unset it, and set debug.transfers=true, which watches "
        raise ConfigError(f"{text}the steps alone.", key="JAX_TRANSFER_GUARD")
    try:
        jax.local_devices()
    except Exception as error:  # JAX raises what its plugins raise, an AssertionError without a text too
        reason = " ".join(told(error).split()).rstrip(": ")
        platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        if not platforms:
            raise ConfigError(f"JAX finds no device: {reason}; JAX_PLATFORMS=cpu takes the processor.") from error
        text = f"'{platforms}' is not installed, or has no device here ({reason}); set it to cpu, or unset it."
        raise ConfigError(text, key="JAX_PLATFORMS") from error


def _is_forked() -> bool:
    """Return whether JAX was used before a fork: of a process's threads, a fork copies Python's alone."""
    try:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are counted, not used
    except OSError:
        return False
    return xla_bridge.backends_are_initialized() and threads <= threading.active_count()
