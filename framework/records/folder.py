"""The folder of a run: check that it can be written before anything heavy is done, make it, lock it.

Checks come before JAX is imported, which only the agreements of several processes need.
"""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from framework.config.settings import RunSettings
from framework.console.output import shell_word
from framework.errors import ConfigError, StorageError, writing

T = TypeVar("T")

PROBE_BYTES = 4096
"""One block, for which the file system has to find room."""

FOLDERS = ("checkpoints", "media", "nan")

WRITTEN = ("config.yaml", "run.log", "metrics.jsonl", *FOLDERS)
"""Files and folders that a run writes beside its record and its lock."""

DRAFTS = (".probe", ".run.json.partial", ".config.yaml.partial", "metrics.jsonl.draft")
DRAFTS += ("asked", ".asked.partial", ".asked.taken")
"""Files that exist for a moment."""


def check_place(settings: RunSettings) -> None:
    """Check that a run folder can be made, by the nearest folder above it that exists. Write nothing.

    Raises: StorageError if that is a file or cannot be written, if the file system does not take the name, or if
      `run.dir` holds a run that is not to go on.
    """
    key, path = ("run.dir", settings.dir) if settings.dir else ("run.root", settings.root)
    folder = Path(path).absolute()
    if key == "run.dir" and folder == folder.parent:
        raise StorageError(f"{folder} is the root of all folders; choose another folder.", key="run.dir")
    try:
        folder = _nearest(folder)
        is_folder, is_open = folder.is_dir(), os.access(folder, os.W_OK | os.X_OK)
        is_read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{path} cannot be made: {reason}; choose another folder.", key=key) from error
    if not is_folder:
        raise StorageError(f"{folder} is a file, expected a folder; choose another one.", key=key)
    if not is_open:
        reason = "is on a read-only file system" if is_read_only else "cannot be written by this user"
        raise StorageError(f"{folder} {reason}; choose another folder.", key=key)
    if key == "run.dir" and folder == Path(path).absolute():
        _check_files(Path(path))
        if not is_to_resume(settings):
            _check_free(Path(path), settings.resume == "auto")


def is_to_resume(settings: RunSettings) -> bool:
    """Return whether `run.resume=auto` goes on with the run in `run.dir`."""
    return settings.resume == "auto" and bool(settings.dir) and is_begun(Path(settings.dir or ""))


def _nearest(folder: Path) -> Path:
    """Return the folder, or the first above it that exists."""
    try:
        os.stat(folder)  # noqa: PTH116 - Path.exists takes an impossible name for a missing one
    except (FileNotFoundError, NotADirectoryError):
        return _nearest(folder.parent)
    return folder


PART = "part_of"
"""File in the folder of a run that is a part of a sweep, which alone goes on with it; it holds the way there."""


def mark_part(directory: Path, sweep: Path) -> None:
    """Note in a run folder that a sweep goes on with the run.

    Raises: StorageError.
    """
    with writing(directory / PART):
        (directory / PART).write_text(f"{os.path.relpath(sweep, directory)}\n")


def way_on(directory: Path) -> str:
    """Return the command that goes on with a run: `framework resume RUN`, or that of its sweep."""
    with suppress(OSError):
        sweep = Path(os.path.relpath(directory / (directory / PART).read_text().strip()))
        return f"framework sweep resume {shell_word(sweep)}"
    return f"framework resume {shell_word(directory)}"


def check_whole(directory: Path) -> None:
    """Check that a run is no part of a sweep, whose ledger would not know what is trained here.

    Raises: ConfigError naming the command of the sweep.
    """
    if (directory / PART).exists():
        raise ConfigError(f"{directory} is one program of a sweep, of several points; `{way_on(directory)}` goes on.")


def make_folder(folder: Path, exist_ok: bool) -> None:
    """Make a run folder for its owner and group, and the missing folders above it. Others cannot write in them.

    The umask may take more permissions away. A folder that exists keeps those that it has.

    Raises: OSError if it cannot be made; FileExistsError if it is a file, or if it exists without `exist_ok`.
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
    """Make `root/name/<time>-<id>`, or `run.dir`, which must not hold a run yet; process 0 makes it for all.

    Raises: StorageError if it cannot be made or written.
    """
    return Path(_agree(lambda: str(_made(settings, name))))


def _agree(decide: Callable[[], T]) -> T:
    from framework.distributed import coordination  # JAX, for which no refusal waits

    return coordination.agree(decide)


def _made(settings: RunSettings, name: str) -> Path:
    directory = Path(settings.dir) if settings.dir else Path(settings.root) / name
    try:
        if settings.dir:
            _check_files(directory)
            _check_free(directory, settings.resume == "auto")
            make_folder(directory, exist_ok=True)
        else:
            directory = _fresh(directory)
        # A run that was killed before its first step left an empty record; the lock tells whether it still runs.
        with (directory / "run.json").open("a" if settings.resume == "auto" and not is_begun(directory) else "x"):
            pass
    except FileExistsError as error:
        raise StorageError(
            f"{directory} holds a run already, or is a file; choose another folder.", key="run.dir"
        ) from error
    except OSError as error:
        key = "run.dir" if settings.dir else "run.root"
        raise StorageError(f"{directory} cannot be made or written: {error.strerror}.", key=key) from error
    probe(directory)
    return directory


def _check_files(directory: Path) -> None:
    """Check that files of a run are files, and that none is a symbolic link: nothing is written outside of the folder.

    Raises: StorageError naming the first link, or pipe, device, or folder in the place of a file.
    """
    for name in ("lock", "run.json", *WRITTEN, *DRAFTS):
        with suppress(FileNotFoundError, NotADirectoryError):
            mode, wanted = (directory / name).lstat().st_mode, "folder" if name in FOLDERS else "regular file"
            if stat.S_ISLNK(mode):
                text = f"{directory / name} is a symbolic link, and a run writes no such; remove it."
                raise StorageError(text, key="run.dir")
            if not (stat.S_ISDIR if name in FOLDERS else stat.S_ISREG)(mode):
                raise StorageError(f"{directory / name} is no {wanted}; remove it.", key="run.dir")


def _check_free(directory: Path, is_restart: bool) -> None:
    """Check that no file of another run is in a folder, so that none is overwritten or taken for the run's own.

    Args:
      is_restart: accept the log and the config of a run that was killed before it wrote its record.

    Raises: StorageError naming the first such file.
    """
    if not is_restart and (directory / "run.json").exists():
        raise StorageError(f"{directory} holds a run already; choose another folder.", key="run.dir")
    early = ("config.yaml", "run.log") if is_restart and (directory / "run.json").exists() else ()
    for name in WRITTEN:
        path = directory / name
        visible = [each for each in path.iterdir() if not each.name.startswith(".")] if path.is_dir() else []
        if name not in early and (visible or (path.is_file() and path.stat().st_size)):
            raise StorageError(
                f"{directory} holds a run already, or parts of one ({name}); choose another.", key="run.dir"
            )


def is_begun(directory: Path) -> bool:
    """Return whether a folder holds the record of a run."""
    path = directory / "run.json"
    return path.exists() and path.stat().st_size > 0


def _fresh(parent: Path) -> Path:
    """Make a folder `<time>-<id>`; draw again if another process, started in the same second, drew the same id."""
    while True:
        directory = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        with suppress(FileExistsError):
            make_folder(directory, exist_ok=False)
            return directory


@contextmanager
def locked(directory: Path, unused: bool = False) -> Iterator[None]:
    """Own a run folder inside the context. The kernel holds the lock, so that it ends with its process in any case.

    Args:
      unused: refuse a folder in which another process began a run after it was made here.

    Raises: StorageError naming the process that owns the folder.
    """
    with ExitStack() as held:
        _agree(lambda: _lock(directory, held, unused))
        yield


def _lock(directory: Path, held: ExitStack, unused: bool) -> None:
    path = directory / "lock"
    _check_files(directory)
    with writing(path):  # unbuffered: on a full disk, closing a buffered file would fail once more
        file = held.enter_context(path.open("ab+", buffering=0))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().decode(errors="replace").strip()
        raise StorageError(f"{directory} is in use by {owner or 'another run'}.", key="run.dir") from error
    if unused and is_begun(directory):
        raise StorageError(f"{directory} holds a run by now, of another process; start again.", key="run.dir")
    with writing(path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
