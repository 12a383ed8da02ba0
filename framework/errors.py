"""The errors a user can meet, each with the exit code of its kind and a text of one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 2000
"""Characters of an error's line; of a longer one the middle is left out."""


class FrameworkError(Exception):
    """A refusal in one line: what happened, what was expected, and the nearest fix."""

    kind = "usage"
    exit_code = 2
    origin = ""  # of the key that it names, once that was looked up

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        # What a file says may hold control characters that a terminal obeys, or be long.
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
        return text if len(text) <= LONGEST else f"{text[: LONGEST * 2 // 3]} … {text[-LONGEST // 3 :]}"


class ConfigError(FrameworkError):
    """A config, an override or a combination of components that cannot be run."""

    kind = "config"
    exit_code = 2


class PluginError(FrameworkError):
    """A plugin that cannot be found, imported or built, or that breaks its contract."""

    kind = "plugin"
    exit_code = 3


class DataError(FrameworkError):
    """Data that are missing, damaged or not of the promised shape."""

    kind = "data"
    exit_code = 4


class StorageError(FrameworkError):
    """A run folder or a checkpoint that cannot be written, read or trusted."""

    kind = "storage"
    exit_code = 5


class MismatchError(StorageError):
    """A sound checkpoint of another tree than the one asked for."""


class NumericalError(FrameworkError):
    """A value that is not finite where one is needed."""

    kind = "numerical"
    exit_code = 6


class PeerError(FrameworkError):
    """Another process of the same run that died or does not answer."""

    kind = "peer"
    exit_code = 7


class DifferenceError(FrameworkError):
    """Two runs that should be the same, bit for bit, and are not."""

    kind = "different"
    exit_code = 8


class InterruptError(FrameworkError):
    """A run that a signal stopped, after its state was saved."""

    kind = "interrupted"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: BaseException) -> int:
    """The code with which a process ends because of an error; 1 for what is a mistake of ours."""
    if isinstance(error, FrameworkError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def line_of(error: BaseException) -> str:
    """What is said on stderr of an error that ends a process."""
    if isinstance(error, FrameworkError):
        return f"error[{error.kind}]: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"error[internal]: {' '.join(f'{type(error).__name__}: {error}'.split())} (`--traceback` shows where)"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file where something cannot be written to the disk.

    Raises: StorageError for any OSError inside the context.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


LISTED = 16
"""Names that an error lists; a line with more is not read."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word is meant and which there are, as the tail of an error's line.

    Args:
      word: what was written.
      known: what could have been written.

    Returns: " Did you mean 'x'? Known: x, y." with the question left out when nothing is near, and of more than
      `LISTED` names those that are nearest.
    """
    names = sorted(set(known))
    folded = {name.lower(): name for name in names}
    cutoff = 0.6 if len(word) > 3 else 0.5  # of two letters, one is half
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=cutoff)
    hint = f" Did you mean '{folded[close[0]]}'?" if close else ""
    if len(names) <= LISTED:
        return f"{hint} Known: {', '.join(names) or 'none'}."
    near = difflib.get_close_matches(word.lower(), folded, n=LISTED, cutoff=0.0)
    return f"{hint} Known: {', '.join(sorted(folded[name] for name in near))}, … ({len(names)} in all)."
