"""Words of a run about the signals that end it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from signal import SIGINT, Signals

from framework.checkpoints import folder
from framework.console.terminal import ERASE, is_notebook
from framework.distributed import processes
from framework.errors import StorageError
from framework.records import logs
from framework.records.folder import way_on
from framework.records.record import RunRecord
from framework.runs import signals

STDERR = 2
"""File descriptor of the standard error."""


def tell_of_signal(record: RunRecord, number: Signals, is_second: bool) -> None:
    """Say that the run will stop; at the second signal, say from where it can go on, and write that it was cut."""
    if is_second:
        _cut(record, number)
    elif number == SIGINT and is_notebook():
        logs.LOGGER.warning("stopping after this step; restart the kernel to end now")
    elif number == SIGINT:
        logs.LOGGER.warning("stopping after this step; Ctrl-C again ends now")
    else:
        logs.LOGGER.warning(f"{number.name}: stopping after this step; a second signal ends at once")


def _cut(record: RunRecord, number: Signals) -> None:
    saved = folder.steps(record.directory / "checkpoints")
    way = "no checkpoint was saved"
    if saved:
        way = f"the newest checkpoint is of step {saved[-1]}: `{way_on(record.directory)}` goes on from there"
    text = f"ended at once by {number.name}; {way}."
    if processes.index() == 0:
        erase = ERASE if os.isatty(STDERR) else ""  # of a live line
        # Past Python's streams, whose locks the thread that is cut may hold.
        with suppress(OSError):
            os.write(STDERR, f"{erase}{text}\n".encode())
    with suppress(StorageError):
        replace(record, status="interrupted", exit_code=signals.exit_code(number), reason=text).write()
    logs.note(text)
