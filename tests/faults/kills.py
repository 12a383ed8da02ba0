"""R1: a run killed at random moments, until it ends, is the run that was never killed. R8: so is its log."""

from __future__ import annotations

import functools
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.processes import PATIENCE, Child, fork, start
from tests.faults.runs import (
    Reference,
    fingerprint,
    kept,
    leftovers,
    reference,
    state_digest,
    steps_of,
    tail,
    words_of,
)
from tests.faults.trials import Draws, Outcome

KILLS = {1: 12, 2: 200, 3: 5000}
RESTARTS = {1: 8, 2: 60, 3: 2000}
RUNS = 2
"""At tier 1, one of each feed: a run that has had its share of the kills is left alone, and ends."""

FULL = 10
"""One run in so many is started from nothing each time, with an empty compilation cache."""


def kills(tier: int, draws: Draws) -> Outcome:
    """R1."""
    return _until(tier, draws, KILLS[tier], lambda folder, generator: None)


def restarts(tier: int, draws: Draws) -> Outcome:
    """R8: as R1, but each kill leaves the log and the curves with a tail as a torn write would."""
    return _until(tier, draws, RESTARTS[tier], _tear_tails)


@functools.cache  # for all rows of a process
def references() -> list[Reference]:
    """The run with its data on the device, and with batches that a thread reads ahead."""
    work = kept("references")
    feeds = {"on the device": [], "read ahead": ["train.resident_mib=0"]}
    return [reference(work, name, words_of(work, *words)) for name, words in feeds.items()]


def _until(tier: int, draws: Draws, wanted: int, after: Callable[[Path, random.Random], None]) -> Outcome:
    """Kill runs until so many kills were made."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        expected = references()
        made, runs, details = 0, 0, []
        most = wanted // RUNS if tier == 1 else sys.maxsize
        for index, generator in draws.trials(wanted):
            count, problem = _run(work / str(index), index, most, expected[index % 2], generator, after)
            made, runs = made + count, runs + 1
            if problem:
                details.append(f"{problem}  [{draws.replay(index)}]")
            else:
                shutil.rmtree(work / str(index))
            if made >= wanted:
                break
        figures = f"{made} kills in {runs} runs; a run takes {expected[0].seconds:.1f} s when left alone"
        return Outcome(made, len(details), (figures, *details))


def _run(
    work: Path,
    index: int,
    most: int,
    expected: Reference,
    generator: random.Random,
    after: Callable[[Path, random.Random], None],
) -> tuple[int, str | None]:
    """Kill and restart one run until it ends. Returns how many kills there were, at most `most`, and what is wrong."""
    work.mkdir()
    folder, errors, count = work / "run", work / "err", 0
    full = index % FULL == FULL - 1
    life = expected.seconds * (4 if full else 1)
    words = [*expected.words, f"run.dir={folder}", "run.resume=auto"]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(work / "cache")}
    while True:
        child = start(words, errors, cache) if full else fork(words, errors)
        if child.wait(generator.uniform(0, life) if count < most else PATIENCE) is not None or count == most:
            break
        child.end()
        count += 1
        if problem := check_checkpoints(folder, expected):
            return count, f"after kill {count}: {problem}"
        if (folder / "metrics.jsonl").exists():
            after(folder, generator)
    return count, check_end(child, folder, errors, expected)


def check_checkpoints(folder: Path, expected: Reference) -> str | None:
    """Every listed checkpoint is whole, and is the state that the uninterrupted run had at that step."""
    for step in steps_of(folder):
        try:
            found = state_digest(folder, step)
        except Exception as error:
            return f"checkpoint {step} is listed and not whole: {type(error).__name__}: {error}"
        if step in expected.states and found != expected.states[step]:
            return f"checkpoint {step} is not the state of the uninterrupted run"
    return None


def check_end(child: Child, folder: Path, errors: Path, expected: Reference, kept: bool = True) -> str | None:
    """The run ended well and is the expected one in every part; which checkpoints are kept may be left out."""
    if child.code is None:
        child.end()
        return f"hangs: no end within {PATIENCE:.0f} s: {tail(errors)}"
    if child.code != 0:
        return f"lost: ended with {child.code}: {tail(errors)}"
    if "Traceback" in errors.read_text():
        return f"traceback: {tail(errors)}"
    if left := leftovers(folder):
        return f"left over: {left}"
    try:
        found = fingerprint(folder)
    except Exception as error:
        return f"what the run left cannot be read: {type(error).__name__}: {error}"
    return (found if kept else found._replace(kept=expected.print.kept)).differs(expected.print)


def _tear_tails(folder: Path, generator: random.Random) -> None:
    """Half a line at the end of the log, half a record at the end of the curves; a run that is over writes neither."""
    if json.loads((folder / "run.json").read_text()).get("exit_code") == 0:
        return
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "train/loss": 0.1234567'[: generator.randrange(35)])
    for path in sorted(folder.glob("*/events.*"))[-1:]:
        with path.open("ab") as file:
            file.write(generator.randbytes(generator.randrange(40)))
