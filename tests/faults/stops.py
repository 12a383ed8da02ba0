"""R5: a signal at any moment ends the process with its code and one line, and costs no step."""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

from framework.runs.signals import CAUGHT, exit_code
from tests.faults import sabotage
from tests.faults.kills import check_checkpoints, check_end, references
from tests.faults.processes import Child, fork, start
from tests.faults.runs import Reference, log_of, reference, steps_of, tail, words_of
from tests.faults.trials import Draws, Outcome, run_trials

SIGNALS = {1: 8, 2: 100, 3: 1000}
EVALUATIONS = {1: 2, 2: 30, 3: 300}
"""Of the signals, those to a run that evaluates for most of its life, 40 batches each time, of which it ends one."""

BATCH = 0.04
"""Seconds that a batch of these evaluations takes."""

FULL = 5
"""One trial in so many starts an interpreter from nothing, so that its imports are hit too."""

LATE = 5
"""Batches that may begin after a signal: the one begun and the next, and more where a busy machine delivers it late."""

GRACE = 100.0
"""Seconds from the first signal to the end: one step and one save take far less."""

SECOND = 60.0
"""Seconds from a second signal to the end."""


def stops(tier: int, draws: Draws) -> Outcome:
    """R5."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        expected = references()
        slow = reference(work, "slow", words_of(work, "train.steps=40", "data.eval_batch_size=1"))
        cut: list[int] = []

        def trial(index: int, generator: random.Random) -> str | None:
            place = work / str(index)
            place.mkdir()
            if index < EVALUATIONS[tier]:
                problem = _evaluating(place, slow, generator, cut)
            else:
                problem = _trial(place, index, expected[index % 2], generator)
            shutil.rmtree(place)
            return problem

        outcome = run_trials(draws, SIGNALS[tier], trial)
        return outcome._replace(details=(f"{len(cut)} evaluations were cut short and made up", *outcome.details))


def _evaluating(work: Path, expected: Reference, generator: random.Random, cut: list[int]) -> str | None:
    """Signal a run in the midst of an evaluation: of at least 10 batches that are left, most are not made."""
    folder, errors, batches = work / "run", work / "err", work / "batches"
    words = [*expected.words, f"run.dir={folder}", "run.resume=auto"]
    number, first = (
        generator.choice(CAUGHT),
        generator.choice((0, 40, 80, 120)),
    )  # three evaluations, and the test split
    child = fork(words, errors, prepare=lambda: sabotage.slow_evaluation(batches, BATCH))
    while child.poll() is None and (not batches.exists() or len(batches.read_text().split()) <= first):
        time.sleep(0.01)
    child.wait(generator.uniform(0, 30 * BATCH))
    child.send(number)
    sent = time.monotonic()
    if child.wait(GRACE) is None:
        child.end()
        return f"{number.name} in an evaluation: no end within {GRACE} s"
    began = [float(moment) for moment in batches.read_text().split()]
    if (late := sum(moment > sent for moment in began)) > LATE:
        return f"{number.name} in an evaluation: {late} batches were begun after it"
    if child.code != exit_code(number):
        return f"{number.name} in an evaluation: ended with {child.code}: {tail(errors)}"
    cut.append(len(began))
    return _check_saved(child, folder, errors.read_text(), expected, must_say=True) or _go_on(
        words, folder, errors, expected
    )


def _trial(work: Path, index: int, expected: Reference, generator: random.Random) -> str | None:
    """Send one signal or two, look at what is there, and go on to the end."""
    folder, errors = work / "run", work / "err"
    full = index % FULL == FULL - 1
    words = [*expected.words, f"run.dir={folder}", "run.resume=auto"]
    number, twice = generator.choice(CAUGHT), generator.random() < 0.3
    child = start(words, errors) if full else fork(words, errors)
    while full and child.poll() is None and not _is_listening(child):
        time.sleep(0.005)
    child.wait(generator.uniform(0, expected.seconds + 2 * full))
    child.send(number)
    seconds = GRACE
    if twice:
        child.wait(generator.uniform(0, 0.05))
        child.send(number)
        seconds = SECOND
    began = time.monotonic()
    if child.wait(seconds) is None:
        child.end()
        return f"{number.name}: no end within {seconds} s: {tail(errors)}"
    took = time.monotonic() - began
    said = errors.read_text()
    if "Traceback" in said:
        return f"{number.name}: traceback: {tail(errors)}"
    if child.code not in (0, exit_code(number)):
        return f"{number.name}: ended with {child.code}, expected {exit_code(number)}: {tail(errors)}"
    problem = _check_saved(child, folder, said, expected, must_say=not twice)
    if problem:
        return f"{number.name}, ended after {took:.2f} s: {problem}"
    return _go_on(words, folder, errors, expected)


def _is_listening(child: Child) -> bool:
    """The interpreter has come to its first line; before that, signals are Python's own affair."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # bit n - 1 stands for signal n
    return all(caught >> (number - 1) & 1 for number in CAUGHT)


def _check_saved(child: Child, folder: Path, said: str, expected: Reference, must_say: bool) -> str | None:
    """The newest checkpoint is of the step that was said, and no step that was logged is missing from it."""
    if child.code == 0:
        return None if json.loads((folder / "run.json").read_text())["exit_code"] == 0 else "ended with 0, not done"
    if problem := check_checkpoints(folder, expected):
        return problem
    found = re.search(r"stopped at step (\d+) by SIG\w+;", said)
    if not must_say:
        return None
    if found is None:
        return None if "stopped by SIG" in said else f"nothing was said: {said[-200:]!r}"
    saved, logged = steps_of(folder), [entry["step"] for entry in log_of(folder)]
    if saved[-1] != int(found[1]) or max(logged, default=0) > saved[-1]:
        return f"said to be saved at step {found[1]}, found {saved}, logged {logged[-1:]}"
    return None


def _go_on(words: list[str], folder: Path, errors: Path, expected: Reference) -> str | None:
    """The run that is started again ends as the one that never stopped; steps saved at the signal may be kept too."""
    child = fork(words, errors)
    child.wait()
    problem = check_end(child, folder, errors, expected, kept=False)
    return problem and f"after going on: {problem}"
