"""Signals: SIGTERM, SIGINT, SIGHUP and SLURM's SIGUSR2 ask a run to stop in good order; a second ends it at once."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from framework.console.terminal import is_notebook
from framework.errors import InterruptError

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
NAMES = {number.name: number for number in CAUGHT}

LAST_WORDS = 1.0
"""Seconds for what is said and written about a signal, which a full pipe or a slow disk must not hold up."""

Says = Callable[[signal.Signals, bool], None]
"""`says(signal, is_second)` tells of a signal that came."""


def leave_when_asked() -> None:
    """End the process at the first signal, with its exit code and one line, before a run begins and after it ended."""

    def leave(number: int, _: object) -> None:
        line = f"stopped by {signal.Signals(number).name}: no step was being made, and nothing was lost.\n"
        with suppress(OSError):  # nobody reads it
            os.write(2, line.encode())
        os._exit(exit_code(signal.Signals(number)))

    for number in _heeded():
        signal.signal(number, leave)
    atexit.register(_ignore)


@contextmanager
def raised() -> Iterator[None]:
    """Raise a signal as an InterruptError inside the context, where no run is in this process.

    Outside the main thread signals cannot be caught; then nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        raise InterruptError(f"{signal.Signals(number).name} stopped it.", exit_code(signal.Signals(number)))

    handlers = {number: signal.signal(number, end) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    """Return the signals to catch: all but a SIGHUP that `nohup` has switched off."""
    return [each for each in CAUGHT if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


def _ignore() -> None:
    """Ignore signals while the interpreter ends; it would give them back their deadly default."""
    for number in CAUGHT:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_requests(
    says: Says = lambda number, is_second: None,
) -> Iterator[Callable[[], signal.Signals | None]]:
    """Catch the signals inside the context; yield a function that returns the first that came, or None.

    The first is only noted: the loop looks for it between steps. Python runs its handlers between bytecodes, which
    never come while XLA compiles, so a thread that reads the wake-up pipe ends the process at the second one. Outside
    the main thread signals cannot be caught; then the function returns None.

    Args:
      says: told of each signal at once, in a thread of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    seen: list[signal.Signals] = []
    said: list[threading.Thread] = []

    def tell(number: signal.Signals) -> None:
        """Note the first signal; end the process at the second. Files on the disk are whole at any moment."""
        seen.append(number)
        if len(seen) > 1 and number == signal.SIGINT and is_notebook():
            return  # a kernel holds more than this run
        said.append(threading.Thread(target=says, args=(number, len(seen) > 1), daemon=True))
        said[-1].start()
        if len(seen) > 1:
            said[-1].join(LAST_WORDS)
            os._exit(exit_code(number))

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in _heeded()}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, tell), daemon=True).start()
    try:
        yield lambda: seen[0] if seen else None
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writing)  # ends the thread, which closes the other end
        for each in said:
            each.join(LAST_WORDS)


def _watch(reading: int, tell: Callable[[signal.Signals], None]) -> None:
    while byte := os.read(reading, 1):
        if byte[0] in CAUGHT:
            tell(signal.Signals(byte[0]))
    os.close(reading)


def exit_code(number: signal.Signals) -> int:
    """Return 130 after SIGINT, 129 after SIGHUP, 143 after SIGTERM and the SIGUSR2 by which SLURM announces it."""
    return {signal.SIGINT: 130, signal.SIGHUP: 129}.get(number, 143)
