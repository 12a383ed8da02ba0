"""R2: a damaged checkpoint is noticed, said, set aside and kept; the run goes on from an older one to the same end."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.kills import check_end
from tests.faults.processes import fork
from tests.faults.runs import Reference, reference, state_digest, words_of
from tests.faults.sabotage import exit_after_save, forge
from tests.faults.trials import Draws, Outcome, run_trials

FLIPS = {1: 1, 2: 90, 3: 2000}
"""Of one bit, in each file of the checkpoint."""

NEWEST, OLDER = 30, 20
STEPS = 40


def damage(tier: int, draws: Draws) -> Outcome:
    """R2."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        expected, stopped = _stopped(work)
        harms = _harms(stopped, FLIPS[tier])
        fell_back: list[int] = []

        def trial(index: int, generator: random.Random) -> str | None:
            folder = work / str(index) / "run"
            shutil.copytree(stopped, folder)
            label, harm = harms[index]
            harm(folder / "checkpoints", generator)
            problem = _resume(folder, expected, fell_back)
            shutil.rmtree(folder.parent)
            return problem and f"{label}: {problem}"

        outcome = run_trials(draws, len(harms), trial)
        control = None if draws.only is not None else _control(work, stopped, expected)
        figures = f"{len(fell_back)} fell back to an older checkpoint, the others were harmless"
        details = (figures, *outcome.details, *([control] if control else []))
        return Outcome(outcome.done, outcome.failed + (control is not None), details)


def _stopped(work: Path) -> tuple[Reference, Path]:
    """The expected end, and the folder of a run that was killed after its third checkpoint of four."""
    words = words_of(work, f"train.steps={STEPS}")
    expected = reference(work, "reference", words)
    stopped = work / "stopped"
    code = fork([*words, f"run.dir={stopped}"], work / "err", prepare=lambda: exit_after_save(NEWEST)).wait()
    if code != 137:
        raise SystemExit(f"the run to be damaged ended with {code}: {(work / 'err').read_text()[-500:]}")
    return expected, stopped


def _harms(stopped: Path, flips: int) -> list[tuple[str, Callable[[Path, random.Random], None]]]:
    """List the harms done to a folder of checkpoints, by name."""
    newest = stopped / "checkpoints" / str(NEWEST)
    harms = [(f"swap all for those of {OLDER}", lambda folder, _: _swap(folder, None))]
    harms.append(("a file that is none of ours", lambda folder, _: _junk(folder)))
    for path in sorted(newest.iterdir()):
        name, size = path.name, path.stat().st_size
        harms += [
            (f"{name}: a bit flipped", lambda folder, generator, name=name: _flip(folder, name, generator))
        ] * flips
        for length in (0, size // 2, size - 1):
            harms.append((f"{name}: cut to {length}", lambda folder, _, name=name, n=length: _cut(folder, name, n)))
        harms.append((f"{name}: deleted", lambda folder, _, name=name: _at(folder, name).unlink()))
        harms.append((f"{name}: that of {OLDER}", lambda folder, _, name=name: _swap(folder, name)))
    return harms


def _resume(folder: Path, expected: Reference, fell_back: list[int]) -> str | None:
    errors = folder.parent / "err"
    child = fork(["resume", str(folder)], errors)
    child.wait()
    if problem := check_end(child, folder, errors, expected):
        return problem
    said, damaged = errors.read_text(), folder / "checkpoints" / f"{NEWEST}.damaged"
    if f"at step {NEWEST} of" in said:
        return "set aside and used" if damaged.exists() else None
    fell_back.append(NEWEST)
    lines = [line for line in said.splitlines() if f"checkpoints/{NEWEST}" in line and "set aside" in line]
    if len(lines) != 1 or f"at step {OLDER} of" not in said:
        return f"went back without one line that says why: {said[:400]!r}"
    return None if damaged.exists() else "the damaged checkpoint was not kept"


def _control(work: Path, stopped: Path, expected: Reference) -> str | None:
    """A forged checkpoint, with digests that fit its wrong numbers, must be seen by what is compared here."""
    folder = work / "forged" / "run"
    shutil.copytree(stopped, folder)
    before = state_digest(folder, NEWEST)
    fork([], work / "forge.err", prepare=lambda: forge(folder / "checkpoints", NEWEST)).wait()
    if state_digest(folder, NEWEST) == before:
        return f"the control could not forge a checkpoint: {(work / 'forge.err').read_text()[-300:]}"
    if _resume(folder, expected, []) is None:
        return "control: wrong numbers with fitting digests were not seen, so that no count here has a meaning"
    return None


def _at(folder: Path, name: str) -> Path:
    return folder / str(NEWEST) / name


def _flip(folder: Path, name: str, generator: random.Random) -> None:
    content = bytearray(_at(folder, name).read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    _at(folder, name).write_bytes(content)


def _cut(folder: Path, name: str, length: int) -> None:
    _at(folder, name).write_bytes(_at(folder, name).read_bytes()[:length])


def _swap(folder: Path, name: str | None) -> None:
    names = [name] if name else [path.name for path in (folder / str(OLDER)).iterdir()]
    for each in names:
        shutil.copy(folder / str(OLDER) / each, _at(folder, each))


def _junk(folder: Path) -> None:
    (folder / str(NEWEST) / "notes.txt").write_bytes(b"\x00\xff" * 50)
    (folder / "notes").mkdir()
