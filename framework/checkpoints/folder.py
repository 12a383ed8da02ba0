"""The folder of a run's checkpoints: list them, put one in place, delete one."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from framework.errors import StorageError, writing

NAME = re.compile("0|[1-9][0-9]{0,17}")
"""The names of whole checkpoints."""


def steps(folder: Path) -> list[int]:
    """Return the steps that were saved, oldest first; a checkpoint has its name only once it is whole."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # which knows folders without another look
        return sorted(int(entry.name) for entry in entries if NAME.fullmatch(entry.name) and entry.is_dir())
    return []


def is_saved(folder: Path, step: int) -> bool:
    """Tell whether a step was saved, without a look at the others."""
    return (folder / str(step)).is_dir()


def put_in_place(partial: Path, target: Path) -> None:
    """Give a finished folder its name, and flush that to the disk; an older one of that name goes only then.

    Raises: OSError; the older one has its name then.
    """
    former = partial.with_name(f"{partial.name}.former")
    if target.exists():
        _rename(target, former)
    try:
        partial.rename(target)
    except OSError:
        if former.exists():
            former.rename(target)
        raise
    clear(former)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a checkpoint: first its name, by which it would be found, then its files."""
    trash = path.with_name(f".{path.name}.trash")
    _rename(path, trash)
    clear(trash)


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to `<step>.damaged`: it is not found again, and kept to be looked at."""
    _rename(path, path.with_name(f"{path.name}.damaged"))


def discard(folder: Path) -> None:
    """Delete what a failed save or a killed process left half written or half deleted: it takes room from the next."""
    for kind in ("partial", "trash", "former"):
        for leftover in folder.glob(f".*.{kind}"):
            with writing(leftover):
                clear(leftover)


def clear(path: Path) -> None:
    """Delete a folder as far as it can be, or what stands in its place; to delete a pipe as a folder hangs."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _rename(path: Path, target: Path) -> None:
    """Rename a folder, in place of what an earlier one of that name left."""
    clear(target)
    path.rename(target)


def check_space(folder: Path, copies: int, size: int) -> None:
    """Compare the free space with the space that checkpoints will need.

    Args:
      folder: one that exists.
      copies: of the state.
      size: of each, in bytes.

    Raises: StorageError with both figures if there is too little; never if the file system does not tell.
    """
    with writing(folder):
        usage = shutil.disk_usage(folder)
    if usage.total and usage.free < copies * size:
        raise StorageError(
            f"{folder} has {usage.free:,} bytes free, and {copies} checkpoints of {size:,} bytes need "
            f"{copies * size:,}; free some, choose another run.root, or keep fewer with callbacks.checkpoint.keep."
        )
