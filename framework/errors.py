"""The errors a user can meet, each with the exit code of its kind and a text of one line."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 2000
"""Characters of an error's line; of a longer one the middle is left out."""


class FrameworkError(Exception):
    """A refusal in one line: what happened, what was expected, and the nearest fix.

    Attributes:
      key: the key of the config that is wrong, such as "train.steps", which the line begins with; "" if there is none.
        Of a choice of the command line it is the word: "model=mlpp".
      option: the option below the key that is wrong, if a factory names it: "batch_size" of the key "data".
      origin: where the key was set, such as "(set in experiment/mine.yaml:7)", which the line ends with.
    """

    kind = "usage"
    exit_code = 2
    key = option = origin = ""

    def __init__(self, *args: object, key: str = "") -> None:
        super().__init__(*args)
        self.key = key

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows in the place of a traceback: the line that a terminal has."""
        return [line_of(self)]

    def __str__(self) -> str:
        text = " ".join([self.key and f"{self.key}:", *super().__str__().split(), self.origin]).strip()
        text = printable(" ".join(text.split()))
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


class AccessError(StorageError):
    """A checkpoint that cannot be read for a reason outside of it, such as a permission; it may be sound."""


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


PLUGIN_FAULTS = (Exception, SystemExit, KeyboardInterrupt)
"""Errors that a plugin may raise. A plugin that calls `sys.exit` has failed, as one that raises any other error."""


def is_users(error: BaseException) -> bool:
    """Tell whether the user interrupted the program: Python raises KeyboardInterrupt by the default handler alone."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def told(error: BaseException) -> str:
    """Return the type and text of a foreign error, even if its `__str__` fails."""
    try:
        text = str(error)
    except Exception as again:
        text = f"its text cannot be made: {type(again).__name__}"
    return f"{type(error).__name__}: {text}"


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a process that ends with this error; 1 for a mistake of ours."""
    if isinstance(error, FrameworkError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def line_of(error: BaseException) -> str:
    """Return the line on stderr for an error that ends a process."""
    if isinstance(error, InterruptError):
        return str(error)  # who asked for it made no mistake
    if isinstance(error, FrameworkError):
        return f"error[{error.kind}]: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"error[internal]: {' '.join(told(error).split())} (`--traceback` shows where)"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in errors of writing to the disk.

    Raises: StorageError for any OSError inside the context.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


@contextmanager
def blaming(what: str, key: str = "", passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Turn an error that a plugin raises inside the context into a PluginError that begins with these words.

    The framework's own errors, an interrupt by the user, and the errors `passing` stay as they are.
    """
    try:
        yield
    except (FrameworkError, *passing):
        raise
    except (*PLUGIN_FAULTS, GeneratorExit) as error:
        if is_users(error):
            raise
        raise PluginError(f"{what}: {told(error)}", key=key) from error


def printable(text: str) -> str:
    """Escape control characters, which a terminal obeys and a file's text may hold; lines stay."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def plain(text: str) -> str:
    """Put a library's message into one line of plain words, without the names of its classes."""
    for pattern, word in _FOREIGN:
        text = re.sub(pattern, word, text)
    return " ".join(text.split())


_FOREIGN = (
    (r"\b\w*(Error|Exception)( raised)?( while [^:]*)?:\s*", ""),
    (r"\b\w*(Error|Exception)\b", "error"),
    (r"\b(ListConfig|SequenceNode)\b", "list"),
    (r"\b(DictConfig|MappingNode)\b", "mapping"),
    (r"\b(Any|Union|Integer|Float|Boolean|String|Enum|Bytes|Path|Scalar)Node\b", "value"),
    (r"\bOmegaConf\b", "config"),
)

LISTED = 16
"""Largest number of names that an error lists; nobody reads a longer line."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is meant, and list the known ones, as the tail of an error's line.

    Initials mean a name of several words, such as `lr` for `learning_rate`, if they are those of one name alone.

    Args:
      word: as written.
      known: the words that are possible.

    Returns: " Did you mean 'x'? Known: x, y." without the question when nothing is near, and with the
      nearest `LISTED` names when there are more.
    """
    names = sorted(set(known))
    folded = {name.lower(): name for name in names}
    cutoff = 0.6 if len(word) > 3 else 0.5  # of two letters, one is half
    short = [name for name in folded if "_" in name and word.lower() == "".join(part[:1] for part in name.split("_"))]
    close = short if len(short) == 1 else difflib.get_close_matches(word.lower(), folded, n=1, cutoff=cutoff)
    hint = f" Did you mean '{folded[close[0]]}'?" if close else ""
    if len(names) <= LISTED:
        return f"{hint} Known: {', '.join(names) or 'none'}."
    near = difflib.get_close_matches(word.lower(), folded, n=LISTED, cutoff=0.0)
    return f"{hint} Known: {', '.join(sorted(folded[name] for name in near))}, … ({len(names)} in all)."
