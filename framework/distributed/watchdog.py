"""The watch of each process of a run over the others: their lives, their steps, and a common step to stop at.

A thread tells the others once a second how far this process is, and reads their messages. So a run neither hangs for
ever on a process that died or is stuck, nor stops in one process and not in another.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from signal import Signals
from typing import Any

from framework.contracts.components import TrainState
from framework.contracts.strategy import StrategyWrapper
from framework.distributed import processes
from framework.errors import FrameworkError, PeerError, exit_code_of

TICK = 1.0
"""Seconds between two messages to the others, and the precision of everything here."""

COMPILING = 10
"""Factor of the time limit for the first call of a compiled function, and for all that comes before it."""

TRANSPORT = re.compile(r"gloo|nccl|connection|unavailable|deadline_exceeded|aborted|coordination", re.IGNORECASE)

Loss = Callable[[str, int], None]
"""Is told why the process ends, and by which exit code."""

_runs = itertools.count()


class Watchdog:
    """The watch over one run in one process.

    Attributes:
      step: updates that were dispatched here.
    """

    def __init__(self, limit: float, stopping: Callable[[], Signals | None], on_loss: Loss) -> None:
        """Make it for one run, before any process begins the run.

        Args:
          limit: seconds without progress, here or in another process, after which this one ends; 0 for no limit.
          stopping: returns the signal that came to this process, or None.
          on_loss: called with the message and the exit code before the process ends.
        """
        self.limit, self.step = limit, 0
        self._stopping, self._on_loss = stopping, on_loss
        self._folder = f"framework/run/{next(_runs)}/"
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._over, self._decided = threading.Event(), threading.Event()
        self._heard: dict[str, tuple[str, float]] = {}  # by process: what it said, and when that was new
        self._answered = self._moved = time.monotonic()
        self._compiling, self._told = True, ""
        self._polls, self._mine, self._last, self._signal = 0, None, 0, Signals.SIGTERM

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside the context.

        Raises: PeerError in place of what the transport of the devices raises when a process is gone.
        """
        for target in (self._talk, self._guard):
            threading.Thread(target=target, daemon=True).start()
        try:
            yield
            self._hold()
            self._tell("done")
        except Exception as error:
            if _is_transport(error):
                raise processes.lost("another process is gone") from error
            self._say("failed", f"{exit_code_of(error)} {processes.summary(error)}")
            raise
        finally:
            self._over.set()

    def stopping(self, step: int) -> Signals | None:
        """Return the signal that ends the run after this step, or None; the same answer in every process.

        All processes must ask equally often. A process that learns of a signal, its own or another's, announces the
        number of its next question and does not pass it until all have announced theirs. The run ends at the highest.
        """
        self.beat(step)
        with self._lock:
            self._polls += 1
            held = self._mine is not None
        if not held or self._polls < (self._mine or 0):
            return None
        self._decided.wait()
        return self._signal if self._polls >= self._last else None

    def beat(self, step: int | None = None) -> None:
        """Note progress."""
        self._moved = time.monotonic()
        self.step = self.step if step is None else step
        processes.reached(self.step)

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Count the calls of a compiled function as progress; the first call, which compiles, has more time."""
        first = True

        def run(*args: Any) -> Any:
            nonlocal first
            self.beat()
            self._compiling = first
            try:
                return call(*args)
            finally:
                first = self._compiling = False
                self.beat()

        return run

    def _say(self, key: str, value: str) -> None:
        processes.store().key_value_set(f"{self._folder}{key}", value, allow_overwrite=True)

    def _tell(self, where: str) -> None:
        """Tell the others how far this process is; after "done", nothing else."""
        with self._telling:
            if self._told != "done":
                self._told = where
                self._say(f"at/{processes.index()}", where)

    def _hold(self, heard: str = "") -> None:
        """Announce, once, the next question, which this process will not pass, and the signal that it heard of."""
        with self._lock:
            if self._mine is None:
                self._mine = self._polls + 1
                self._say(f"last/{processes.index()}", f"{self._mine} {heard}")

    def _talk(self) -> None:
        """Tell and read until the run is over, in a thread: a request to a stuck coordinator never returns."""
        for tick in itertools.count():
            if self._over.wait(TICK):
                return
            try:
                self._tell(f"{self.step} {tick}")
                if (signal := self._stopping()) is not None:
                    self._say(f"stop/{processes.index()}", signal.name)
                said = dict(processes.store().key_value_dir_get(self._folder))
            except Exception:
                return  # the guard sees that nothing is answered
            self._answered = time.monotonic()
            self._read({key.removeprefix(self._folder): value for key, value in said.items()})

    def _read(self, said: dict[str, str]) -> None:
        for key, value in said.items():
            kind, _, process = key.partition("/")
            if kind == "at" and self._heard.get(process, ("", 0.0))[0] != value:
                self._heard[process] = (value, self._answered)
        if "failed" in said and not self._over.wait(processes.GRACE):
            code, _, text = said["failed"].partition(" ")
            self._leave(f"another process failed ({text})", int(code))
        if heard := [value for key, value in said.items() if key.startswith("stop/")]:
            self._hold(heard[0])
        last = [value.split(" ") for key, value in sorted(said.items()) if key.startswith("last/")]
        if heard and len(last) == processes.count():
            self._last = max(int(number) for number, _ in last)
            self._signal = Signals[next(name for _, name in last if name)]
            self._decided.set()

    def _guard(self) -> None:
        while self.limit > 0 and not self._over.wait(TICK):
            for wait, since, who in self._waits():
                if wait > 0 and time.monotonic() - since > wait:
                    self._leave(f"{who} for {time.monotonic() - since:.0f} s")

    def _waits(self) -> Iterator[tuple[float, float, str]]:
        yield self.limit, self._answered, "process 0, which coordinates, has not answered"
        for process, (said, when) in list(self._heard.items()):
            if said != "done":
                yield self.limit, when, f"process {process} has not been heard of since step {said.split()[0]}"
        # A process that is stuck as a whole was named above, a tick earlier.
        others = ", ".join(f"process {process} at step {said.split()[0]}" for process, (said, _) in self._heard.items())
        most = self.limit * (COMPILING if self._compiling else 1) + 2 * TICK
        yield most, self._moved, f"no step ended ({others})"

    def _leave(self, message: str, code: int = PeerError.exit_code) -> None:
        with contextlib.suppress(Exception):
            self._on_loss(message, code)
        processes.leave(message, code)


@dataclass(frozen=True)
class Watched(StrategyWrapper):
    """A strategy whose calls the watchdog sees begin and end."""

    watchdog: Watchdog

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state, which may take as long as a compiled function's first call."""
        return self.watchdog.watched(self.strategy.init)(init, given)

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call with a note of its beginning and its end."""
        return self.watchdog.watched(call)


@contextlib.contextmanager
def watching(limit: float, stopping: Callable[[], Signals | None], on_loss: Loss) -> Iterator[Watchdog | None]:
    """Watch inside the context, as `Watchdog` does; None for a run of one process."""
    if processes.count() == 1:
        yield None
        return
    watchdog = Watchdog(limit, stopping, on_loss)
    with watchdog.watching():
        yield watchdog


def _is_transport(error: Exception) -> bool:
    """Tell whether XLA raised an error for a broken connection, for which it has no type of its own."""
    found = error.__cause__ if isinstance(error, FrameworkError) else error
    return isinstance(found, ValueError | RuntimeError) and TRANSPORT.search(str(found)) is not None
