"""R7: a run stopped at the places where an off-by-one would show goes on with the very next batch and key."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults import sabotage
from tests.faults.kills import check_end
from tests.faults.processes import fork
from tests.faults.runs import EPOCH, Reference, reference, words_of
from tests.faults.trials import Draws, Outcome, run_trials

STEPS = 4 * EPOCH
PLACES = {
    "the first step": 1,
    "the middle of an epoch": EPOCH // 2,
    "the last batch of an epoch": EPOCH,
    "the first batch of the next": EPOCH + 1,
    "the middle of the third": 2 * EPOCH + EPOCH // 2,
    "the last step": STEPS,
    "after the end": STEPS + 1,
}
FEEDS = {
    "chunks of data on the device": [],
    "chunks of batches read ahead": ["train.resident_mib=0"],
    "single steps": ["train.steps_per_call=1"],
}
CONTROLS = {"data position": sabotage.forget_position, "key": sabotage.forget_key}


def positions(tier: int, draws: Draws) -> Outcome:
    """R7."""
    cases = [(place, feed) for place in PLACES for feed in FEEDS]
    cases = cases if tier > 1 else [cases[0], cases[10], cases[15]]
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        expected = {feed: _reference(work, feed) for feed in sorted({feed for _, feed in cases})}

        def trial(index: int, _: random.Random) -> str | None:
            place, feed = cases[index]
            folder = work / str(index) / "run"
            folder.parent.mkdir()
            problem = _stop_and_go_on(folder, PLACES[place], expected[feed])
            shutil.rmtree(folder.parent)
            return problem and f"{place}, {feed}: {problem}"

        outcome = run_trials(draws, len(cases), trial)
        feed = next(iter(expected))
        blind = [
            f"control: with the {what} not restored, nothing was seen"
            for what, forget in (CONTROLS.items() if draws.only is None else ())
            if _is_blind(work / what, expected[feed], forget)
        ]
        figures = (
            f"{outcome.done} stop points, {len(CONTROLS) - len(blind)} of {len(CONTROLS)} controls fail as they must"
        )
        return Outcome(outcome.done, outcome.failed + len(blind), (figures, *outcome.details, *blind))


def _reference(work: Path, feed: str) -> tuple[Reference, dict[int, list[int]]]:
    """The run without a stop, and which examples each step takes."""
    words = words_of(work, f"train.steps={STEPS}", *FEEDS[feed])
    place = work / f"rows of {feed}"
    place.mkdir()
    code = fork([*words, f"run.dir={place}/run"], place / "err", prepare=_prepared(place)).wait()
    if code != 0:
        raise SystemExit(f"the reference ended with {code}: {(place / 'err').read_text()[-500:]}")
    return reference(work, feed, words), _rows(place)


def _stop_and_go_on(
    folder: Path,
    step: int,
    expected: tuple[Reference, dict[int, list[int]]],
    forget: Callable[[], object] = bool,
) -> str | None:
    """Kill a run when a step is saved, go on, and compare state, log, curves, and which examples each step takes."""
    straight, rows = expected
    place, words = folder.parent, [*straight.words, f"run.dir={folder}", "run.resume=auto"]
    every = "train.checkpoint_every=10" if step >= STEPS else f"train.checkpoint_every={step}"
    child = fork([*words, every], place / "err", prepare=_prepared(place, lambda: sabotage.exit_after_save(step)))
    if child.wait() != (0 if step > STEPS else 137):
        return f"ended with {child.code} before it was to go on"
    before = _rows(place)
    child = fork(words, place / "err", prepare=_prepared(place, forget))
    child.wait()
    if problem := check_end(child, folder, place / "err", straight, kept=False):
        return problem
    return None if {**before, **_rows(place)} == rows else "the steps took other examples"


def _is_blind(place: Path, expected: tuple[Reference, dict[int, list[int]]], forget: Callable[[], object]) -> bool:
    place.mkdir()
    return _stop_and_go_on(place / "run", EPOCH + 1, expected, forget) is None


def _prepared(place: Path, more: Callable[[], object] = bool) -> Callable[[], None]:
    def prepare() -> None:
        more()
        sabotage.log_rows(place / "rows")

    return prepare


def _rows(place: Path) -> dict[int, list[int]]:
    """By step, the examples that it took; the file is read to its end and emptied."""
    path = place / "rows"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return dict(json.loads(line) for line in lines)
