"""Whether a run can be written where it shall go: seen before anything heavy is imported, built or compiled."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from framework.config.settings import RunSettings
from framework.errors import StorageError, writing

PROBE_BYTES = 4096
"""One block: enough for the file system to have to find room."""


def check_place(settings: RunSettings) -> None:
    """Look at the nearest folder above the run's that exists. Nothing is written.

    Raises: StorageError if it is a file, cannot be written, or the name is none that the file system takes.
    """
    key, path = ("run.dir", settings.dir) if settings.dir else ("run.root", settings.root)
    folder = Path(path).absolute()
    try:
        folder = _nearest(folder)
        is_folder, is_open = folder.is_dir(), os.access(folder, os.W_OK | os.X_OK)
        is_read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{key}: {path} cannot be made: {reason}; choose another folder.") from error
    if not is_folder:
        raise StorageError(f"{key}: {folder} is a file, expected a folder; choose another one.")
    if not is_open:
        reason = "is on a read-only file system" if is_read_only else "cannot be written by this user"
        raise StorageError(f"{key}: {folder} {reason}; choose another folder.")


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    try:
        os.stat(folder)  # noqa: PTH116 - Path.exists takes an impossible name for a missing one
    except (FileNotFoundError, NotADirectoryError):
        return _nearest(folder.parent)
    return folder


def make_folder(folder: Path, exist_ok: bool) -> None:
    """Make a run folder for its owner and group, and what is missing above it; others write in none of them.

    Only the umask may leave less. A folder that exists keeps the permissions that it has.

    Raises: OSError if it cannot be made, FileExistsError if it is a file, or exists and may not.
    """
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(mode=0o775, exist_ok=True)
    folder.mkdir(mode=0o770, exist_ok=exist_ok)


def probe(folder: Path) -> None:
    """Write, flush and remove a small file.

    Raises: StorageError if that cannot be done.
    """
    path = folder / ".probe"
    with writing(path):
        try:
            with path.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)


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
