"""Output that may fail: its reader may end, its disk be full, its descriptor be closed."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TextIO

FOR_THE_FILE = {"quiet": True}
"""`extra` of a line that `run.log` takes, and the console does not show."""


def note(text: str) -> None:
    """Write a line into the `run.log` of a run that goes on in this process, and not to the console."""
    logging.getLogger("framework").info(text, extra=FOR_THE_FILE)


class SurvivingStream:
    """A text stream that is given up at its first failure, with one warning: a run counts more than what it says.

    Attributes:
      failure: what went wrong, in words; "" as long as all is well.
    """

    def __init__(self, stream: Any, name: str) -> None:
        """Wrap a stream; None is one that was closed before Python started."""
        self._stream, self._name, self.failure = stream, name, ""
        if stream is None:
            self._give_up("it was closed")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or do nothing once a write has failed."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self._stream.write(ascii(text)[1:-1].replace(r"\n", "\n"))
        except (OSError, ValueError) as error:  # Python's error for a closed stream is a ValueError
            self._give_up(getattr(error, "strerror", None) or str(error))
            return len(text)

    def flush(self) -> None:
        """Flush, or do nothing once a write has failed."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(getattr(error, "strerror", None) or str(error))

    def _give_up(self, reason: str) -> None:
        # What the stream still holds goes the same way; Python's end would fail with it.
        with suppress(AttributeError, OSError, ValueError):  # there is no descriptor below it
            os.dup2(_nowhere().fileno(), self._stream.fileno())
        self._stream = _nowhere()
        self.failure = f"{self._name} cannot be written ({reason}); the run goes on without."
        logging.getLogger("framework").warning(self.failure)


@cache
def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


@contextmanager
def surviving(*names: str) -> Iterator[None]:
    """Let "stdout" or "stderr" fail without an error inside the context."""
    with ExitStack() as restored:
        for name in names:
            before = getattr(sys, name)
            if not isinstance(before, SurvivingStream):
                setattr(sys, name, SurvivingStream(before, name))
                restored.callback(setattr, sys, name, before)
        yield


def failures() -> list[str]:
    """Return the failures of stdout and stderr so far."""
    return [each.failure for each in (sys.stdout, sys.stderr) if isinstance(each, SurvivingStream) and each.failure]


def open_closed() -> None:
    """Open the null device in the place of closed standard descriptors, which the next files would take otherwise."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest descriptor that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))


def shell_word(path: Path | str) -> str:
    """Write a path as one word of a command line that a reader may copy."""
    return shlex.quote(str(path))
