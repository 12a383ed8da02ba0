"""The folder of a sweep: found again for the same command, or made; and the one driver that owns it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from framework.console.output import shell_word
from framework.errors import ConfigError, StorageError, writing
from framework.records.folder import make_folder
from framework.records.neighbours import Kind, refusal
from framework.sweeps.disks import is_shared

LEDGER = "ledger.sqlite"
"""Name of a ledger that is a database, for the processes of one machine."""

JOURNAL = "ledger.journal"
"""Name of a ledger that is a journal, on a disk that several machines share."""

SWEEP = Kind("a sweep", "the folder of one, which `framework -m …` begins", (LEDGER, JOURNAL))

RUNS = "runs"
GROUPS = "groups"
"""Folder of the programs that train several points: each keeps a record of its own there."""

GLANCE = 0.5
"""Seconds for which a lock may be held by those who only look whether a sweep is driven."""

LedgerKind = Literal["auto", "database", "journal"]

STOP = "stop"
"""File that asks the driver to begin no further point."""


def ledger_of(folder: Path) -> Path:
    """Return the file of a sweep's ledger: its journal, or else its database, which may not be there."""
    journal = folder / JOURNAL
    return journal if journal.is_file() else folder / LEDGER


def new_ledger_of(folder: Path, kind: LedgerKind) -> Path:
    """Return the file in which a sweep's ledger is, or is to be made.

    Args:
      kind: of a ledger that is to be made; "auto" takes a journal on a disk that several machines may share.
    """
    if ledger_of(folder).is_file() or kind == "database" or (kind == "auto" and not is_shared(folder)):
        return ledger_of(folder)
    return folder / JOURNAL


def is_sweep(folder: Path) -> bool:
    """Tell whether a folder holds a sweep."""
    return ledger_of(folder).is_file()


def identity_of(words: Sequence[str]) -> str:
    """Hash what makes a command the same as before, so that its sweep goes on."""
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=12).hexdigest()


def find(root: Path, name: str, identity: str) -> Path | None:
    """Return the newest sweep of an experiment that has an identity, or None."""
    for folder in sorted((root / name).glob("*"), reverse=True):
        with suppress(OSError):
            if is_sweep(folder) and (folder / "identity").read_text().strip() == identity:
                return folder
    return None


def make(root: Path, name: str, directory: str | None, identity: str) -> Path:
    """Make `root/<experiment>/<time>-<id>`, or the folder that is asked for.

    Raises: StorageError if it cannot be made, or if there is one that is no sweep.
    """
    folder = Path(directory) if directory else root / name / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with writing(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise StorageError(f"{folder} is not empty, and holds no sweep; choose another folder.", key="sweep.dir")
        make_folder(folder / RUNS, exist_ok=True)
        (folder / "identity").write_text(f"{identity}\n")
    return folder


def check(folder: Path) -> Path:
    """Return the folder of a sweep.

    Raises: StorageError if it is none.
    """
    if not is_sweep(folder):
        raise refusal(folder, SWEEP)
    return folder


def check_free(folder: Path) -> None:
    """Check that nobody drives a sweep.

    Raises: ConfigError naming the process that does.
    """
    if is_driven(folder):
        raise _is_driven_by((folder / "lock").read_text(), folder)


@contextmanager
def driven(folder: Path) -> Iterator[None]:
    """Be the one driver of a sweep inside the context. The kernel holds the lock.

    Raises: ConfigError naming the process that drives it.
    """
    with writing(folder / "lock"), (folder / "lock").open("a+") as file:
        until = time.monotonic() + GLANCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    file.seek(0)
                    raise _is_driven_by(file.read(), folder) from error
                time.sleep(0.01)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _is_driven_by(text: str, folder: Path) -> ConfigError:
    driver = text.strip() or "another process"
    return ConfigError(f"{folder} is driven by {driver}; `framework sweep wait {shell_word(folder)}` waits for it.")


def is_driven(folder: Path) -> bool:
    """Tell whether a process drives a sweep."""
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def owner() -> str:
    """Return a name for a worker in this process that no other has: host, process, when it began, and a random part."""
    return f"{platform.node()} {os.getpid()} {_born(os.getpid())} {secrets.token_hex(4)}"


def is_gone(owner: str | None) -> bool | None:
    """Tell whether the process of an owner has ended; None if it is on another machine."""
    host, pid, born = (owner or "").split()[:3] if len((owner or "").split()) >= 3 else ("", "0", "")
    if host != platform.node():
        return None
    return _born(int(pid)) != born


def _born(pid: int) -> str:
    """Return the clock tick at which a process began, "" if there is none: numbers of processes are used again."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
        return "alive"
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended


def driver_of(folder: Path) -> int | None:
    """Return the number of the process that drives a sweep on this machine, or None."""
    if not is_driven(folder):
        return None
    words = (folder / "lock").read_text().split()
    return int(words[1]) if len(words) == 4 and words[3] == platform.node() else None
