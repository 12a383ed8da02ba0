"""Several processes as one run: meeting at the start, and parting when something is wrong."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import jax
from jax._src import distributed, xla_bridge  # there is no public way to the key-value store; Orbax takes this too
from jax._src.lib import _jax

from framework.config.settings import Distributed
from framework.errors import ConfigError, PeerError, exit_code_of, told

REMEDY = "restart all processes, with `resume` or run.resume=auto; where steps take longer, set run.watchdog higher"

GRACE = 10.0
"""Seconds for a process to end by its own error after another one failed: most errors are those of all."""

FAREWELL = 15.0
"""Seconds that a process whose run failed waits for the others, so that all can end in good order."""

LOOK = 1000
"""Milliseconds between two looks for a process that failed."""

_failures: list[int] = []  # exit codes of runs that failed here
_reached = [0]  # the step that the run has come to in this process
_runs = [0]  # runs that were begun in this process; all processes begin the same ones


def count() -> int:
    """Return the number of processes of the run; 1 without `distributed`. It touches no device."""
    return distributed.global_state.num_processes or 1


def index() -> int:
    """Return the number of this process, from 0."""
    return distributed.global_state.process_id


def store() -> Any:
    """Return the key-value store that all processes share."""
    return distributed.global_state.client


def reached(step: int) -> None:
    """Note the step that the run has reached here, for messages."""
    _reached[0] = step


@contextmanager
def joined(settings: Distributed, patience: float) -> Iterator[None]:
    """Join the processes of a run, if `distributed` names any, before the first use of a device.

    Args:
      settings: the section `distributed`.
      patience: seconds without a sign of life after which JAX takes a process for dead. It then aborts the others with
        pages of text, so this must be longer than the time limit of the watchdog.

    Raises: ConfigError for half a setting, or if `auto` finds no cluster; PeerError if the others do not come.
    """
    try:
        if settings.coordinator is not None and distributed.global_state.client is None:
            _start(settings, patience)
        _runs[0] += 1
        yield
    except BaseException as error:
        _failures.append(exit_code_of(error))
        # Of a process that is gone, the others know; and if it was the coordinator, a request would never return.
        if count() > 1 and not isinstance(error, PeerError):
            with contextlib.suppress(Exception):  # the store is gone
                store().key_value_set(f"{_failed()}/{index()}", f"{exit_code_of(error)} {summary(error)}")
        raise


def summary(error: BaseException) -> str:
    """Return the type and the beginning of the text of an error, in one line."""
    return " ".join(told(error).split())[:300]


def awaited(key: str) -> str:
    """Return what another process puts into the store; the watchdog, or JAX, ends a process that waits in vain.

    Raises: PeerError, `GRACE` seconds after another process failed, with that one's exit code.
    """
    failed: list[tuple[str, str]] = []
    end = float("inf")
    while time.monotonic() < end:
        try:
            return store().blocking_key_value_get(key, LOOK)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if not failed and (failed := store().key_value_dir_get(_failed())):
            end = time.monotonic() + GRACE
    code, _, text = failed[0][1].partition(" ")
    failure = PeerError(f"another process failed ({text}).")
    failure.exit_code = int(code)
    raise failure


def _failed() -> str:
    """Return the folder of the store in which processes of this run say that they failed: exit code, space, text."""
    return f"framework/failed/{_runs[0]}"


def _start(settings: Distributed, patience: float) -> None:
    """Connect to the others, without JAX's preemption service, which takes SIGTERM for itself."""
    auto = settings.coordinator == "auto"
    given = {} if auto else _given(settings)
    if xla_bridge.backends_are_initialized():
        raise ConfigError("this process has used JAX already; processes must meet before they do.", key="distributed")
    jax.config.update("jax_enable_preemption_service", False)
    connect = _jax.get_distributed_runtime_client
    # Without a callback, JAX prints a page and aborts when process 0 is gone. With one, jaxlib fails to pass it its
    # argument and calls `std::terminate`, whose handler therefore ends this process with one line.
    _jax.get_distributed_runtime_client = partial(connect, missed_heartbeat_callback=_coordinator_gone)
    with contextlib.suppress(OSError, AttributeError):  # without GNU's C++ library the process aborts
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(_ON_TERMINATE)
    atexit.register(_part)
    try:
        jax.distributed.initialize(
            **given, initialization_timeout=settings.timeout, heartbeat_timeout_seconds=round(patience)
        )
    except ValueError as error:
        if not auto:
            raise ConfigError(str(error), key="distributed") from error
        raise ConfigError(
            "auto found neither SLURM, Open MPI, Kubernetes nor a TPU pod; start the processes under one, "
            "or set distributed.coordinator=HOST:PORT, distributed.processes and distributed.process.",
            key="distributed",
        ) from error
    except RuntimeError as error:
        raise PeerError(
            f"process {index()} did not meet the others in {settings.timeout} s; start all of them, where "
            f"they reach {distributed.global_state.coordinator_address}, or set distributed.timeout higher.",
            key="distributed",
        ) from error
    finally:
        _jax.get_distributed_runtime_client = connect


CLOSING = 6
"""Looks at the coordinator, two a second: a process that is killed closes its sockets one after the other."""


def _coordinator_gone(*ignored: Any) -> None:
    """End this process, called in the thread of jaxlib that noticed the loss."""
    host, _, port = (distributed.global_state.coordinator_address or "").rpartition(":")
    for _ in range(CLOSING):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except OSError:
            leave("process 0, which coordinates, is gone")
        time.sleep(0.5)
    os.abort()  # the coordinator is there, so that something else is wrong


_ON_TERMINATE = ctypes.CFUNCTYPE(None)(_coordinator_gone)
_leaving = threading.Lock()


def leave(message: str, code: int = PeerError.exit_code) -> NoReturn:
    """End this process from any thread, with the one line of a PeerError: its main thread may never come back.

    Args:
      message: why.
      code: of the exit; that of another process, if it failed by an error of its own.
    """
    if _leaving.acquire(blocking=False):
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, f"error[{PeerError.kind}]: {_line(message)}\n".encode())
    else:
        time.sleep(FAREWELL)  # another thread has told the reason, and is about to leave
    os._exit(code)


def lost(message: str) -> PeerError:
    """Return the same error for the main thread to raise; no other thread writes a message after it."""
    if not _leaving.acquire(blocking=False):
        time.sleep(FAREWELL)
    return PeerError(_line(message))


def _line(message: str) -> str:
    return f"{message}, after step {_reached[0]} here; {REMEDY}."


def _part() -> None:
    """Leave at exit, after a failure, without JAX's own shutdown if others do not come to it, since that aborts."""
    if not _failures:
        return
    with contextlib.suppress(Exception):
        if PeerError.exit_code not in _failures:
            store().wait_at_barrier("framework/farewell", round(FAREWELL * 1000))
            return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_failures[-1])


def _given(settings: Distributed) -> dict[str, Any]:
    _, _, port = str(settings.coordinator).rpartition(":")
    if not port.isdecimal():
        raise ConfigError(f"expected auto or HOST:PORT, found '{settings.coordinator}'.", key="distributed.coordinator")
    if settings.processes is None or settings.process is None or not 0 <= settings.process < settings.processes:
        raise ConfigError(
            f"processes={settings.processes}, process={settings.process}; expected how many there are, "
            "and which of them this is, counted from 0.",
            key="distributed",
        )
    if settings.process == 0:
        _check_port(int(port))
    return {
        "coordinator_address": settings.coordinator,
        "num_processes": settings.processes,
        "process_id": settings.process,
        "cluster_detection_method": "deactivate",
    }


def _check_port(port: int) -> None:
    """Check that process 0 can listen: else the others wait in vain, or JAX shares the port with another run."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections are no hindrance
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            text = f"process 0 cannot listen at port {port} ({error}); take one that is free."
            raise ConfigError(text, key="distributed.coordinator") from error
