"""The framework's log: on the console, and in a run's run.log."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from framework.config.secrets import masked
from framework.console import terminal
from framework.console.output import FOR_THE_FILE, failures, surviving
from framework.console.output import note as note
from framework.distributed import processes
from framework.errors import FrameworkError, InterruptError, line_of, printable, writing

LOGGER = logging.getLogger("framework")


@contextmanager
def console() -> Iterator[None]:
    """Show the framework's log as plain lines on stderr inside the context, and leave logging as it was.

    Of several processes, only process 0 shows more than errors. Output that cannot be written is no error there.
    """
    with surviving("stdout", "stderr"), _handling(_Console(), logging.Formatter("%(message)s")):
        level = LOGGER.level
        LOGGER.setLevel(logging.INFO if processes.index() == 0 else logging.ERROR)
        try:
            yield
        finally:
            LOGGER.setLevel(level)


@contextmanager
def run_log(directory: Path, hidden: Collection[str]) -> Iterator[None]:
    """Copy the framework's log into `run.log` inside the context, and the error that ends it, without secrets."""
    if processes.index() > 0:
        yield
        return
    line = "%(asctime)s %(levelname)s %(message)s"
    with writing(directory / "run.log"):
        handler = _LogFile(directory / "run.log")
    with _handling(handler, _Masking(line, hidden)):
        for failure in failures():  # which came before there was a run.log
            LOGGER.warning(failure)
        try:
            yield
        except BaseException as error:
            _note_error(error)
            raise


def _note_error(error: BaseException) -> None:
    """Write the line of an error that ends the process, which the console tells later; of a foreign one its trace too.

    A signal that stops a run in good order is no error.
    """
    level = logging.INFO if isinstance(error, InterruptError) else logging.ERROR
    trace = [] if isinstance(error, FrameworkError | KeyboardInterrupt) else traceback.format_exception(error)
    LOGGER.log(level, "\n".join([line_of(error), *(each.rstrip() for each in trace)]), extra=FOR_THE_FILE)


class _Masking(logging.Formatter):
    def __init__(self, line: str, hidden: Collection[str]) -> None:
        super().__init__(line)
        self.hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        return printable(masked(super().format(record), self.hidden))  # `cat` shows it on a terminal


class _LogFile(logging.FileHandler):
    """A log file whose failed write is one line on stderr, once; it does not end the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        self.setLevel(logging.CRITICAL + 1)
        sys.stderr.write(f"{self.baseFilename} cannot be written: {sys.exception()}\n")


class _Console(logging.Handler):
    """A handler that looks up its stream for each line: a live line stands below all that is written."""

    def emit(self, record: logging.LogRecord) -> None:
        if not FOR_THE_FILE.items() <= vars(record).items():
            text, stream = printable(self.format(record)), terminal.console()
            if record.levelno >= logging.WARNING:
                text = terminal.painted(text, "error" if record.levelno >= logging.ERROR else "warning", stream)
            stream.write(text + "\n")


@contextmanager
def _handling(handler: logging.Handler, formatter: logging.Formatter) -> Iterator[None]:
    handler.setFormatter(formatter)
    propagated, LOGGER.propagate = LOGGER.propagate, False
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.propagate = propagated
        with suppress(OSError):  # reported already
            handler.close()
