"""Requests to a running process, through a file in its run folder that the loop looks for between two windows."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path

from framework.console.output import shell_word
from framework.errors import ConfigError, StorageError, nearest, writing
from framework.records.neighbours import refusal

WORDS = {
    "checkpoint": "save the state at the end of the window of steps",
    "evaluate": "evaluate there, and go on",
    "profile": "record what host and devices do in the next window of steps, into the folder profile/",
    "stop": "save the state and end with exit code 0, so that `resume` goes on from there",
}
"""Requests, and what the run does."""

FILE = "asked"


def ask(directory: Path, word: str) -> None:
    """Ask the process of a run.

    Raises: ConfigError for an unknown word; StorageError if it is no run folder or cannot be written, or if no process
      runs there.
    """
    if word not in WORDS:
        raise ConfigError(f"a run cannot be told to '{word}'.{nearest(word, WORDS)}", key="tell")
    if not (directory / "run.json").exists():
        raise refusal(directory)
    if not is_running(directory):
        raise StorageError(
            f"{directory}: no process is training there; `framework resume {shell_word(directory)}` starts one."
        )
    path, partial = directory / FILE, directory / f".{FILE}.partial"
    with writing(path):
        before = path.read_text() if path.exists() else ""
        partial.write_text(f"{before}{word}\n")
        partial.replace(path)


def taken(directory: Path) -> tuple[str, ...]:
    """Return the requests that have come, and remove them; it costs some microseconds where there are none."""
    path = directory / FILE
    if not path.is_file():
        return ()
    own = directory / f".{FILE}.taken"
    with suppress(OSError):  # a folder that cannot be written is told by what has to be saved in it
        path.replace(own)
        words = own.read_text().split()
        own.unlink()
        return tuple(dict.fromkeys(word for word in words if word in WORDS))
    return ()


def is_running(directory: Path) -> bool:
    """Tell whether a process holds the lock of a run folder.

    Raises: StorageError if it is no run folder.
    """
    try:
        with (directory / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise StorageError(f"{directory} is no run folder: {error.strerror}.") from error
