"""R11: runs that start at once have folders of their own; a folder has one owner; after a kill it takes another."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

from tests.faults.processes import fork
from tests.faults.runs import steps_of, tail, words_of
from tests.faults.trials import Draws, Outcome

AT_ONCE = {1: 6, 2: 20, 3: 60}
TAKEN_OVER = {1: 2, 2: 10, 3: 50}
SHORT = ["train.steps=10"]
ENDLESS = ["train.steps=100000000"]


def folders(tier: int, draws: Draws) -> Outcome:
    """R11."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        problems = [_at_once(work, AT_ONCE[tier])]
        owners = [_owned(work / str(index), generator) for index, generator in draws.trials(TAKEN_OVER[tier])]
        found = [problem for problem in (*problems, *owners) if problem]
        figures = f"{AT_ONCE[tier]} starts at once, {len(owners)} folders with an owner that was then killed"
        return Outcome(AT_ONCE[tier] + 2 * len(owners), len(found), (figures, *found))


def _at_once(work: Path, count: int) -> str | None:
    """Start runs that all choose a folder under one root."""
    words = words_of(work, f"run.root={work / 'runs'}", *SHORT)
    children = [fork(words, work / f"{index}.err") for index in range(count)]
    codes = [child.wait() for child in children]
    records = [json.loads(path.read_text()) for path in work.glob("runs/*/*/run.json")]
    processes = {record["starts"][-1]["process"] for record in records}
    if codes != [0] * count or len(records) != count or processes != {child.pid for child in children}:
        said = {tail(work / f"{index}.err", 1) for index, code in enumerate(codes) if code != 0}
        return f"{count} starts: codes {codes}, {len(records)} folders, {len(processes)} processes: {said}"
    return None


def _owned(work: Path, generator: random.Random) -> str | None:
    """A second run in the folder of a first one is refused; once the first was killed, it goes on."""
    work.mkdir()
    folder, errors = work / "run", work / "second.err"
    unstopped = [word for word in words_of(work) if "early_stopping" not in word]
    words = [*unstopped, f"run.dir={folder}", "run.resume=auto"]
    first = fork([*words, *ENDLESS], work / "first.err")
    deadline = time.monotonic() + 600
    while not (folder / "metrics.jsonl").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(generator.uniform(0, 0.5))
    second = fork(words, errors)
    if second.wait() != 5 or f"in use by process {first.pid} on" not in errors.read_text():
        first.end()
        return f"a second run in one folder ended with {second.code}: {tail(errors)}"
    first.end()
    steps = max(steps_of(folder), default=0)
    third = fork([*words, f"train.steps={steps + 10}"], work / "third.err")
    return None if third.wait() == 0 else f"the lock of a killed owner was not taken over: {tail(work / 'third.err')}"
