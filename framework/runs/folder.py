"""Whether a run can be written where it shall go: seen before anything heavy is imported, built or compiled."""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from framework.config.settings import RunSettings
from framework.distributed import coordination
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


def make_directory(settings: RunSettings, name: str) -> Path:
    """Make `root/name/<time>-<id>`, or `run.dir`, which must not hold a run yet; process 0 does, for all.

    Raises: StorageError if it cannot be made or written.
    """
    return Path(coordination.agree(lambda: str(_made(settings, name))))


def _made(settings: RunSettings, name: str) -> Path:
    directory = Path(settings.dir) if settings.dir else Path(settings.root) / name
    try:
        if settings.dir:
            make_folder(directory, exist_ok=True)
        else:
            directory = _fresh(directory)
        # Who was killed before its first step left an empty record; its lock tells whether it was.
        with (directory / "run.json").open("a" if settings.resume == "auto" and not is_begun(directory) else "x"):
            pass
    except FileExistsError as error:
        raise StorageError(f"run.dir: {directory} holds a run already, or is a file; choose another folder.") from error
    except OSError as error:
        raise StorageError(f"run.dir: {directory} cannot be written: {error.strerror}.") from error
    probe(directory)
    return directory


def is_begun(directory: Path) -> bool:
    """Whether a folder holds the record of a run."""
    path = directory / "run.json"
    return path.exists() and path.stat().st_size > 0


def check_unused(directory: Path) -> None:
    """Once it is locked, nobody else can have begun a run in a folder.

    Raises: StorageError if somebody did between the making and the locking of it.
    """

    def check() -> None:
        if is_begun(directory):
            raise StorageError(f"run.dir: {directory} holds a run by now, of another process; start again.")

    coordination.agree(check)


def _fresh(parent: Path) -> Path:
    """A folder `<time>-<id>` that this process made; of many started in one second, two may draw one id."""
    while True:
        directory = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        with suppress(FileExistsError):
            make_folder(directory, exist_ok=False)
            return directory


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Own a run folder. The lock is the kernel's, so that it ends with its process, however that ends.

    Raises: StorageError naming the process that owns the folder.
    """
    with ExitStack() as held:
        coordination.agree(lambda: _lock(directory, held))
        yield


def _lock(directory: Path, held: ExitStack) -> None:
    path = directory / "lock"
    with writing(path):  # unbuffered, lest closing it fails once more where a full disk took nothing
        file = held.enter_context(path.open("ab+", buffering=0))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().decode(errors="replace").strip()
        raise StorageError(f"run.dir: {directory} is in use by {owner or 'another run'}.") from error
    with writing(path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
