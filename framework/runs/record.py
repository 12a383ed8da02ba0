"""The run folder: made exclusively, with the config and the record of what ran."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from omegaconf import OmegaConf

from framework.config.secrets import masked, masked_words
from framework.config.settings import RunSettings
from framework.distributed import coordination, processes
from framework.errors import StorageError, writing
from framework.registry.entry_points import Plugin
from framework.runs.folder import make_folder, probe

LOGGER = logging.getLogger("framework")


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


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write `config.yaml`, resolved, which `python -m framework train RUN` runs again."""
    _replace(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def write_record(directory: Path, record: Mapping[str, Any], hidden: Collection[str] = ()) -> None:
    """Write `run.json`, without the secrets in it."""
    _replace(directory / "run.json", json.dumps(masked(record, hidden), indent=2) + "\n")


@contextmanager
def concluding(exit_code: int) -> Iterator[None]:
    """Where how a run ended cannot be written either, the error that ended it is the one to tell."""
    try:
        yield
    except StorageError as error:
        if exit_code == 0:
            raise
        LOGGER.warning(str(error))


def _replace(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader never finds half of it, nor who resumes a killed run."""
    if processes.index() > 0:
        return
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_text(text)
        partial.replace(path)


def environment() -> dict[str, Any]:
    """Versions, devices, command and git commit: what one must know to run it again."""
    packages = ("framework", "jax", "jaxlib", "optax", "numpy", "hydra-core", "tensorboard")
    return {
        "command": masked_words(sys.argv, ()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in packages},
        "devices": [str(device) for device in jax.local_devices()],
        "git_commit": _git_commit(),
        "process": os.getpid(),
        "processes": processes.count(),
    }


def provenance(plugins: Mapping[str, Plugin]) -> dict[str, dict[str, str]]:
    """Which distribution each component came from, by config key."""
    return {
        key: {"kind": p.kind, "name": p.name, "distribution": p.distribution, "version": p.version, "target": p.target}
        for key, p in plugins.items()
    }


@contextmanager
def console() -> Iterator[None]:
    """Show the framework's log as plain lines on stderr while a run lasts, and leave logging as it was.

    Of several processes only process 0 shows more than errors.
    """
    with _handling(_Console(), logging.Formatter("%(message)s")):
        level = LOGGER.level
        LOGGER.setLevel(logging.INFO if processes.index() == 0 else logging.ERROR)
        try:
            yield
        finally:
            LOGGER.setLevel(level)


@contextmanager
def run_log(directory: Path, hidden: Collection[str]) -> Iterator[None]:
    """Copy the framework's log into `run.log`, without the secrets in it."""
    if processes.index() > 0:
        yield
        return
    line = "%(asctime)s %(levelname)s %(message)s"
    with writing(directory / "run.log"):
        handler = _LogFile(directory / "run.log")
    with _handling(handler, _Masking(line, hidden)):
        yield


class _Masking(logging.Formatter):
    def __init__(self, line: str, hidden: Collection[str]) -> None:
        super().__init__(line)
        self.hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record), self.hidden)


class _LogFile(logging.FileHandler):
    """Says once that the disk takes no more lines, which stand on stderr as well; whether a run goes on is not its."""

    def handleError(self, record: logging.LogRecord) -> None:
        self.setLevel(logging.CRITICAL + 1)
        sys.stderr.write(f"{self.baseFilename} cannot be written: {sys.exception()}\n")


class _Console(logging.Handler):
    """Writes to what stderr is at that moment: a live progress bar redirects it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


@contextmanager
def _handling(handler: logging.Handler, formatter: logging.Formatter) -> Iterator[None]:
    handler.setFormatter(formatter)
    propagated, LOGGER.propagate = LOGGER.propagate, False
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.propagate = propagated
        with suppress(OSError):  # said already
            handler.close()


def _git_commit() -> str | None:
    """The commit of the folder one works in, where it is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
