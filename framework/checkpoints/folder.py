"""The folder of a run's checkpoints: which steps it holds, and how one enters and leaves it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from framework.errors import StorageError, writing


def steps(folder: Path) -> list[int]:
    """The steps that were saved, oldest first; a folder has its name only once it is whole."""
    names = [entry.name for entry in folder.glob("*") if re.fullmatch("0|[1-9][0-9]{0,17}", entry.name)]
    return sorted(int(name) for name in names if (folder / name).is_dir())


def remove(path: Path) -> None:
    """Delete a checkpoint: first its name, by which it would be found, then its files."""
    trash = path.with_name(f".{path.name}.trash")
    shutil.rmtree(trash, ignore_errors=True)
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint so that it is not found again; it is kept for whoever wants to look at it."""
    target = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(target, ignore_errors=True)
    path.rename(target)


def discard(folder: Path) -> None:
    """Delete what a save that failed left half written: it takes the room of what can still be written."""
    for leftover in folder.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what a killed process left half written or half deleted."""
    discard(folder)
    for leftover in [*folder.glob(".*.trash"), *folder.glob(".*.former")]:
        shutil.rmtree(leftover, ignore_errors=True)


def _swap(partial: Path, target: Path) -> None:
    """Put a finished folder in the place of another, which goes only once that has worked."""
    former = partial.with_name(f"{partial.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if not target.exists():
        partial.rename(target)
        return
    target.rename(former)
    try:
        partial.rename(target)
    except OSError:
        former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _flush(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(folder: Path, copies: int, size: int) -> None:
    """Compare what is free with what will be needed.

    Args:
      folder: one that exists.
      copies: of the state.
      size: of each, in bytes.

    Raises: StorageError with both figures if there is too little; never where the file system does not tell.
    """
    with writing(folder):
        usage = shutil.disk_usage(folder)
    if usage.total and usage.free < copies * size:
        raise StorageError(
            f"{folder} has {usage.free:,} bytes free, and {copies} checkpoints of {size:,} bytes need "
            f"{copies * size:,}; free some, choose another run.root, or keep fewer with callbacks.checkpoint.keep."
        )
