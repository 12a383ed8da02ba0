"""A terminal: its width, colours that carry a meaning, and one live line below all that is written."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

Meaning = Literal["error", "warning", "best", "aside"]

COLOURS: dict[Meaning, int] = {"error": 31, "warning": 33, "best": 32, "aside": 2}
"""Codes of red, yellow, green and faint."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Codes that colour what follows."""

ERASE = "\r\x1b[K"
"""Control codes that go to the beginning of a line and clear it."""

TICK = 0.2
"""Seconds between two drawings of a live line. One takes a tenth of a millisecond."""


def is_notebook() -> bool:
    """Tell whether the program runs in a kernel of Jupyter, whose cells show what is written."""
    ipython = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and ipython is not None and ipython.get_ipython() is not None


def console() -> Any:
    """Return the stream for people: stderr, but stdout in a notebook, which shows stderr as an alarm."""
    return sys.stdout if is_notebook() else sys.stderr


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal that obeys control codes."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def painted(text: str, meaning: Meaning, stream: Any) -> str:
    """Colour a text that is written to a stream; not where that is no terminal, nor if NO_COLOR is set."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{COLOURS[meaning]}m{text}\x1b[0m"


def columns_of(stream: Any, default: int = 80) -> int:
    """Return the width of a stream in columns; the default where it is no terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or default
    except (OSError, ValueError, AttributeError):
        return default


def page_width() -> int | None:
    """Return the columns of stdout; None where no terminal shows it, so that nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def width_of(text: str) -> int:
    """Count the columns of a text: letters of East Asia take two, accents and colours none."""
    text = COLOUR.sub("", text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) > 0 for each in text)


def clipped(text: str, width: int) -> str:
    """Cut a text without colours to a width; "…" stands for what is missing."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) >= width:
        text = text[:-1]
    return f"{text}…" if width > 0 else ""


def broken(pieces: Iterable[str], width: int, between: str = " · ") -> list[str]:
    """Join pieces to lines that are no wider than asked for, but where one piece is; further lines are indented."""
    lines = [""]
    for piece in pieces:
        joined = f"{lines[-1]}{between}{piece}" if lines[-1].strip() else f"{lines[-1]}{piece}"
        if width_of(joined) > width and lines[-1].strip():
            lines.append(f"  {piece}")
        else:
            lines[-1] = joined
    return lines


def fitted(text: str, width: int | None) -> str:
    """Break the lines of a text at a width, where there is one; further lines are indented."""

    def broken_at(line: str) -> str:
        return textwrap.fill(line, width or len(line), subsequent_indent="  ", break_on_hyphens=False)

    return text if width is None else "\n".join(map(broken_at, text.splitlines()))


def command_lines(command: str, width: int | None) -> list[str]:
    """Break a command between its words where it is wider than a terminal, so that it still can be copied."""
    lines = [""]
    for word in command.split(" "):
        if width is not None and lines[-1].strip() and len(lines[-1]) + 1 + len(word) + 2 > width:
            lines[-1] += " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return [command] if width is None or len(command) <= width else lines


class StatusLine:
    """One line at the end of a terminal's output, drawn by a thread a few times a second.

    While it stands, all that Python writes to stdout and stderr appears above it. It never reaches the last column,
    so that no terminal wraps it, and it hides no cursor, so that a killed process leaves a whole terminal.
    """

    def __init__(self, text: Callable[[int], str], stream: Any = None) -> None:
        """Draw nothing yet.

        Args:
          text: `text(width)` returns the line, at most so many columns wide. Another thread calls it.
          stream: a terminal; None takes stderr.
        """
        self._text, self._stream = text, sys.stderr if stream is None else stream
        self._lock, self._over = threading.RLock(), threading.Event()
        self._drawn, self._is_within = "", False  # within a line that others have begun
        self._thread = threading.Thread(target=self._tick, name="status line", daemon=True)
        self._restored: list[tuple[str, Any, Any]] = []

    def start(self) -> None:
        """Draw the line, and put what others write above it."""
        for name in ("stdout", "stderr"):
            before = getattr(sys, name)
            if is_terminal(before):
                above = _Above(before, self)
                setattr(sys, name, above)
                self._restored.append((name, before, above))
        self._draw()
        self._thread.start()

    def stop(self, is_kept: bool = True) -> None:
        """Leave the line as it is at the end, or erase it."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        for name, before, above in self._restored:
            if getattr(sys, name) is above:
                setattr(sys, name, before)
        self._restored = []
        with self._lock:
            if is_kept:
                self._draw()
                self._put("\n" if self._drawn else "")
            else:
                self._erase()
            self._drawn = ""

    def write_above(self, stream: Any, text: str) -> int:
        """Write a text of somebody else, and draw the line anew once that has ended a line."""
        with self._lock:
            self._erase()
            written = stream.write(text)
            stream.flush()
            self._is_within = not text.endswith("\n") if text else self._is_within
            if not self._over.is_set():
                self._draw()
        return written

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            width = columns_of(self._stream) - 1
            line = clipped(self._text(width), width)
            if line != self._drawn and not self._is_within:
                self._put(f"\r{line}\x1b[K")
                self._drawn = line

    def _erase(self) -> None:
        if self._drawn:
            self._put(ERASE)
            self._drawn = ""

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


Say = Callable[[str], None]
"""`say(text)` tells people what goes on from now on."""


def silent(text: str) -> None:
    """Tell nobody."""


@contextmanager
def telling() -> Iterator[Say]:
    """Show what goes on inside the context, and for how long, on one line of a terminal; elsewhere a line for each."""
    said = ("", 0.0)
    if not is_terminal(sys.stderr):
        yield lambda text: print(text, file=console(), flush=True)
        return

    def say(text: str) -> None:
        nonlocal said
        said = text, time.monotonic()

    def line(width: int) -> str:
        text, since = said
        return f"{text} · {time.monotonic() - since:.0f} s" if text else ""

    status = StatusLine(line)
    status.start()
    try:
        yield say
    finally:
        status.stop(is_kept=False)


class _Above:
    """A stream whose text is written above a status line."""

    def __init__(self, stream: Any, line: StatusLine) -> None:
        self._stream, self._line = stream, line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text above the line."""
        return self._line.write_above(self._stream, text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write the lines above the line."""
        self.write("".join(lines))
