"""R3: a small disk that fills up at any moment. R4: places where no run can go."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.faults.points import check_refusal, go_on, straight
from tests.faults.processes import fork
from tests.faults.runs import Reference, kept, tail, words_of
from tests.faults.shim import Harm, install
from tests.faults.trials import Draws, Outcome, run_trials

FULL = {1: 3, 2: 40, 3: 400}
DISK = 4 << 20
"""Bytes of the small disk."""

PROMPT = 10.0
"""Seconds of computing in which a place is refused, after the imports."""


def disks(tier: int, draws: Draws) -> Outcome:
    """R3."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        expected = straight()
        taken = sum(path.stat().st_blocks * 512 for path in (kept("points") / "reference-straight").rglob("*"))
        kinds: list[str] = []

        def trial(index: int, generator: random.Random) -> str | None:
            place = work / str(index)
            place.mkdir()
            with mounted(place) as is_disk:
                return _fill(place, expected, generator.uniform(0, 1.2) * taken, is_disk, kinds)

        outcome = run_trials(draws, FULL[tier], trial)
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        return outcome._replace(details=(counts, *outcome.details))


@contextmanager
def mounted(folder: Path) -> Iterator[bool]:
    """A small disk in memory at a folder; False where this user may not mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    is_disk = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_disk
    finally:
        if is_disk:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(place: Path, expected: Reference, room: float, is_disk: bool, kinds: list[str]) -> str | None:
    """Run with so many bytes free; without a disk of its own, with files that may have so many."""
    folder, filler, notes = place / "run", place / "filler", place.with_suffix(".notes")
    if is_disk:
        filler.write_bytes(bytes(max(0, DISK - int(room) - 3 * 4096)))

    def prepare() -> None:
        if not is_disk:
            sys.dont_write_bytecode = True  # it would be cut short, and stay so for others
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(room) // 4, resource.RLIM_INFINITY))
        install(folder, notes, Harm())

    errors = place.with_suffix(".err")
    child = fork([*expected.words, f"run.dir={folder}"], errors, prepare=prepare)
    if child.wait() is None:
        child.end()
        return "hangs on a full disk"
    filler.unlink(missing_ok=True)
    shutil.move(errors, place / "err")
    said = (place / "err").read_text()
    kinds.append("fitted" if child.code == 0 else "refused at the start" if "bytes free" in said else "filled up")
    if "bytes free" in said and "compile" in notes.read_text().split():
        return f"compiled before it looked for room: {tail(place / 'err')}"
    if child.code != 0 and (problem := check_refusal(place, child.code, expected, place)):
        return f"{room:.0f} bytes free: {problem}"
    return go_on(expected.words, place, expected)


def places(tier: int, draws: Draws) -> Outcome:
    """R4, the same at every tier."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        words = words_of(work, "train.steps=1")
        names = list(PLACES)

        def trial(index: int, _: random.Random) -> str | None:
            place = work / str(index)
            place.mkdir()
            problem = _place(place, words, *PLACES[names[index]])
            return problem and f"{names[index]}: {problem}"

        outcome = run_trials(draws, len(names), trial)
        made = fork([*words, f"run.dir={work}/a/b/run"], work / "err").wait()
        control = [] if made == 0 else [f"control: where a run can go, it ended with {made}: {tail(work / 'err')}"]
        return outcome._replace(failed=outcome.failed + len(control), details=(*outcome.details, *control))


def _place(work: Path, words: list[str], make: Callable[[Path], Path], is_bound: bool) -> str | None:
    with mounted(work) if make is _read_only else nullcontext(False) as is_disk:
        path = make(work)
        errors, notes = work.with_suffix(".err"), work.with_suffix(".notes")

        def prepare() -> None:
            install(work, notes, Harm())
            if is_bound:
                _obey_permissions()

        if make is _read_only and not is_disk:
            return None  # nobody may mount here
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = fork([*words, f"run.dir={path}"], errors, prepare=prepare)
        child.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        for folder in work.glob("*"):
            if is_bound and folder.is_dir():
                folder.chmod(0o755)  # so that it can be deleted
    said = errors.read_text()
    if child.code != 5 or said.count("\n") != 1 or not said.startswith("error[storage]: run.dir: "):
        return f"ended with {child.code}, saying {said[-300:]!r}"
    if "compile" in notes.read_text().split():
        return "compiled first"
    return f"took {took:.1f} s" if took > PROMPT else None


def _obey_permissions() -> None:
    """Give up root's way past the permissions of files, for good; who is another user has none."""
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    libc.capget(header, sets)
    for index in range(3):
        sets[index] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _file(work: Path) -> Path:
    (work / "file").write_text("a file")
    return work / "file"


def _closed(work: Path, mode: int) -> Path:
    (work / "closed").mkdir()
    (work / "closed").chmod(mode)
    return work / "closed"


def _circle(work: Path) -> Path:
    (work / "circle").symlink_to("circle")
    return work / "circle"


def _read_only(work: Path) -> Path:
    subprocess.run(["mount", "-o", "remount,ro", str(work)], capture_output=True, check=False)
    return work / "run"


PLACES: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "a file in the way": (_file, False),
    "a file above": (lambda work: _file(work) / "run", False),
    "a name that is too long": (lambda work: work / ("x" * 300), False),
    "a link in a circle": (_circle, False),
    "a pseudo file system": (lambda work: Path("/proc/1/run"), False),
    "a read-only file system": (_read_only, False),
    "a folder that may not be written": (lambda work: _closed(work, 0o555), True),
    "a missing parent below one": (lambda work: _closed(work, 0o555) / "a" / "b", True),
    "a folder that may not be entered": (lambda work: _closed(work, 0o000) / "run", True),
}
"""The maker of each disk, and whether it needs a user who must obey permissions."""
