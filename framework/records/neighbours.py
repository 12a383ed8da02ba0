"""The refusal of a mistyped folder: what was given, what was expected, and the nearest folder that would do."""

from __future__ import annotations

import difflib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from framework.console.output import shell_word
from framework.errors import StorageError


class Kind(NamedTuple):
    """A kind of folder that a command takes.

    Attributes:
      noun: with its article.
      expected: clause about one that would do.
      marks: files of which it holds one; none of a folder of any content.
    """

    noun: str
    expected: str
    marks: tuple[str, ...] = ()


RUN = Kind("a run folder", "one that holds run.json", ("run.json",))
RUNS = Kind("a folder of runs", "a run folder, or one that holds some")


def refusal(folder: Path, kind: Kind = RUN) -> StorageError:
    """Return the error for a folder that a command cannot take, in one sentence.

    Args:
      folder: as it was given.
      kind: that was expected.
    """
    if not folder.exists():
        why = "there is no such folder"
    else:
        why = f"it holds no {' or '.join(kind.marks)}" if folder.is_dir() else "it is a file"
    near = nearest(folder, kind.marks)
    such = "" if near is None else f", such as {shell_word(near)}"
    return StorageError(f"{folder} is not {kind.noun}: {why}; expected {kind.expected}{such}.")


def nearest(folder: Path, marks: tuple[str, ...]) -> Path | None:
    """Return the folder that is meant by a mistyped path, or the newest one that stands below or beside it.

    Each part of the path that is not there is replaced by the name that is most like it.

    Returns: None if there is none that holds one of the marks.
    """
    found, corrected = Path(folder.anchor), False
    with suppress(OSError, ValueError):  # of a folder that cannot be read, or a name that cannot be
        for part in folder.parts[len(found.parts) :]:
            near = [part] if (found / part).is_dir() else difflib.get_close_matches(part, _folders(found), n=1)
            if not near:
                break
            found, corrected = found / near[0], True
        if not corrected:  # nothing of the path is there
            return None
        if not marks or _holds(found, marks):
            return found
        return max(_below(found, marks), key=lambda each: each.stat().st_mtime_ns, default=None)
    return None


def _folders(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each.is_dir()]


def _holds(folder: Path, marks: tuple[str, ...]) -> bool:
    return any((folder / mark).is_file() for mark in marks)


def _below(folder: Path, marks: tuple[str, ...]) -> list[Path]:
    """Return the folders of the kind in a folder, or in those that it holds."""
    return [file.parent for depth in ("*", "*/*") for mark in marks for file in folder.glob(f"{depth}/{mark}")]
