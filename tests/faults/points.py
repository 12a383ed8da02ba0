"""Crash points (R1 by name) and failing calls (R3): at everything that a run does to its folder, it dies or is refused.

The points of a run from its start and of one that goes on are found by letting both pass, see `shim`. At each, a run is
ended, or its call fails, and what is left must be whole, told truly, and lead to the same end.
"""

from __future__ import annotations

import functools
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.kills import check_checkpoints, check_end
from tests.faults.noting import register
from tests.faults.processes import PATIENCE, fork
from tests.faults.runs import Reference, fingerprint, kept, reference, state_digest, steps_of, tail, words_of
from tests.faults.sabotage import exit_after_save
from tests.faults.shim import MAKING, WRITING, Harm, install
from tests.faults.trials import Draws, Outcome, run_trials

STEPS = 40
WORDS = (f"train.steps={STEPS}", "strategy=noted", "callbacks.checkpoint.keep=1", "callbacks.checkpoint.keep_best=1")
"""Four saves, and checkpoints that are deleted."""

SAMPLE = 6
"""Trials at tier 1."""

FEW = 3
"""Of the many writes of one file of a checkpoint, the first, the middle and the last are points."""

LATE = 1
"""Compiled calls that may begin between a write that fails and the end: one may be about to while it fails."""

Trial = Callable[["Scene", Path, Harm], str | None]


class Scene(NamedTuple):
    """A run whose points are known."""

    name: str
    words: list[str]
    before: Path | None  # the folder that it goes on with
    expected: Reference
    points: list[str]


def crashes(tier: int, draws: Draws) -> Outcome:
    """R1, at every point by name: what is after one is before the next, unless another thread is at work."""

    def kinds(operation: str) -> list[str]:
        return ["before"] + ["half"] * (operation in WRITING) + ["after"] * (tier == 3)

    return _row(tier, draws, kinds, _crash)


def refusals(tier: int, draws: Draws) -> Outcome:
    """R3, at every point by name: what makes something finds a full disk, all else a broken one; both at tier 3."""

    def kinds(operation: str) -> list[str]:
        return ["full"] * (operation in MAKING) + ["broken"] * (operation not in MAKING or tier == 3)

    return _row(tier, draws, kinds, _refuse)


@functools.cache  # for all rows of a process
def straight() -> Reference:
    """The run that nothing happens to."""
    work = kept("points")
    register(kept("noting"))
    return reference(work, "reference", words_of(work, *WORDS))


@functools.cache
def scenes() -> list[Scene]:
    """A run from its start, and one that goes on with what a killed one left, each with its points."""
    expected, work = straight(), kept("points")
    words = expected.words
    stopped = work / "stopped"
    fork([*words, f"run.dir={stopped}"], work / "err", prepare=lambda: exit_after_save(20)).wait()
    for name in (".30.partial", ".10.trash"):
        shutil.copytree(stopped / "checkpoints" / "20", stopped / "checkpoints" / name)
    return [_scene(work, "start", words, None, expected), _scene(work, "resume", words, stopped, expected)]


def _scene(work: Path, name: str, words: list[str], before: Path | None, expected: Reference) -> Scene:
    scene = Scene(name, words, before, expected, [])
    code, notes = _run(scene, work / f"dry {name}", Harm())
    if code != 0 or "call" not in notes:
        raise SystemExit(f"the dry run ended with {code}: {tail(work / f'dry {name}' / 'err')}")
    return scene._replace(points=_thinned([note for note in notes if "#" in note]))


def _thinned(points: Sequence[str]) -> list[str]:
    """Without most of the many writes of one file, which differ in nothing."""
    total = Counter(point.partition(" #")[0] for point in points)

    def is_kept(point: str) -> bool:
        name, _, number = point.partition(" #")
        is_one_of_many = name.startswith("write checkpoints") and total[name] > FEW
        return not is_one_of_many or int(number) in (1, total[name] // 2, total[name])

    return [point for point in points if is_kept(point)]


def _row(tier: int, draws: Draws, kinds: Callable[[str], list[str]], trial: Trial) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        known = scenes()
        cases = [
            (scene, Harm(kind, point))
            for scene in known
            for point in scene.points
            for kind in kinds(point.partition(" ")[0])
        ]
        if tier == 1:
            cases = random.Random(f"{draws.row}/{draws.number}").sample(cases, SAMPLE)

        def one(index: int, _: random.Random) -> str | None:
            scene, harm = cases[index]
            place = work / str(index)
            problem = trial(scene, place, harm)
            shutil.rmtree(place)
            return problem and f"{scene.name}, {harm.kind} {harm.point}: {problem}"

        outcome = run_trials(draws, len(cases), one)
        counts = ", ".join(f"{len(scene.points)} in a run from its {scene.name}" for scene in known)
        return outcome._replace(details=(f"points: {counts.replace('its resume', 'a checkpoint')}", *outcome.details))


def _run(scene: Scene, place: Path, harm: Harm) -> tuple[int | None, list[str]]:
    """Run a scene with harm at one point; its exit code, and what was noted."""
    place.mkdir()
    folder, notes = place / "run", place / "notes"
    if scene.before is not None:
        shutil.copytree(scene.before, folder)
    words = [*scene.words, f"run.dir={folder}", "run.resume=auto"]
    child = fork(words, place / "err", prepare=lambda: install(folder, notes, harm))
    if child.wait() is None:
        child.end()
        return None, [f"hangs: no end within {PATIENCE:.0f} s"]
    return child.code, notes.read_text().splitlines()


def _crash(scene: Scene, place: Path, harm: Harm) -> str | None:
    code, notes = _run(scene, place, harm)
    if code != 137:
        return f"was to be ended, ended with {code}: {tail(place / 'err')}" if "!" in notes else "was not met again"
    return check_checkpoints(place / "run", scene.expected) or go_on(scene.words, place, scene.expected)


def _refuse(scene: Scene, place: Path, harm: Harm) -> str | None:
    code, notes = _run(scene, place, harm)
    if "!" not in notes:
        return f"was not met again, ended with {code}: {tail(place / 'err')}"
    late = notes[_refused(notes, harm) :].count("call")
    if code == 0:  # what failed was nothing that anybody needs, such as the room of something deleted
        return fingerprint(place / "run").differs(scene.expected.print)
    if problem := check_refusal(place, code, scene.expected, place / "run"):
        return problem
    return f"was seen {late} calls later" if late > LATE else go_on(scene.words, place, scene.expected)


def _refused(notes: list[str], harm: Harm) -> int:
    """Find the note of the first refusal that ends a run; missing lines of its log do not end it."""
    first = notes.index("!")
    if "run.log" not in harm.point or harm.kind != "full":
        return first
    others = (at for at in range(first, len(notes)) if notes[at].startswith(MAKING) and "run.log" not in notes[at])
    return next(others, first)


def check_refusal(place: Path, code: int | None, expected: Reference, named: Path) -> str | None:
    """The run ended with 5 and one line that names a path; nothing is told to be saved or done that is not."""
    said = (place / "err").read_text()
    errors = [line for line in said.splitlines() if line.startswith("error[")]
    if code != 5 or len(errors) != 1 or not errors[0].startswith("error[storage]: ") or str(named) not in errors[0]:
        return f"ended with {code}, saying {errors or said[-300:]}"
    if "Traceback" in said or "Exception ignored" in said:
        return f"a traceback: {said[-300:]!r}"
    record = place / "run" / "run.json"
    if record.exists() and record.stat().st_size and json.loads(record.read_text())["status"] == "done":
        return "run.json says that it is done"
    return check_checkpoints(place / "run", expected)


def go_on(words: Sequence[str], place: Path, expected: Reference) -> str | None:
    """Started again, it ends as the run that nothing happened to; which checkpoints are kept may differ by a save."""
    folder, before = place / "run", steps_of(place / "run")
    digests = {step: state_digest(folder, step) for step in before}
    (place / "err").unlink()
    child = fork([*words, f"run.dir={folder}", "run.resume=auto"], place / "err")
    child.wait()
    if problem := check_end(child, folder, place / "err", expected):
        return f"after going on: {problem}"
    changed = [step for step in steps_of(folder) if step in digests and digests[step] != state_digest(folder, step)]
    return f"after going on: the states of steps {changed} are others" if changed else None
