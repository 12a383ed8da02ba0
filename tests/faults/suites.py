"""Rows whose trials are the project's own tests, of which tier 1 takes a sample; and series too long for those."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.faults.processes import fork
from tests.faults.runs import fingerprint, tail, words_of
from tests.faults.trials import Draws, Outcome, run_trials

ROOT = Path(__file__).parents[2]


class Suite(NamedTuple):
    """Tests: their files, and which of them are the sample."""

    files: tuple[str, ...]
    sample: str


SUITES = {
    "R9": Suite(("framework/tasks/test_nonfinite.py",), "goes_on_failing"),
    "R13": Suite(("plugins/test_data_idx.py", "plugins/test_data_download.py"), "damage or partial"),
    "C3": Suite(("framework/config/test_secrets.py",), "no_file"),
    "P1": Suite(("framework/registry/test_entry_points.py", "framework/registry/test_builder.py"), "broken"),
    "P3": Suite(("framework/runs/test_run.py", "framework/registry/test_builder.py"), "raise or fail"),
}

CLEAN = {1: 2, 2: 50, 3: 500}
AGAIN = {1: 1, 2: 20, 3: 100}


def suite(name: str) -> Callable[[int, Draws], Outcome]:
    """A row that runs the tests of a suite; each test is a trial."""

    def row(tier: int, draws: Draws) -> Outcome:
        files, sample = SUITES[name]
        command = [sys.executable, "-m", "pytest", "-q", "-n=0", "-p", "no:cacheprovider"]
        command += [f"tests/{file}" for file in files] + (["-k", sample] if tier == 1 else ["-m", "slow or not slow"])
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout.split("\n")[-2])}
        failed = counts.get("failed", 0) + counts.get("error", 0) or int(done.returncode != 0)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return Outcome(sum(counts.values()), failed, tuple(lines))

    return row


def numbers(tier: int, draws: Draws) -> Outcome:
    """R9: the faults, and as many runs without one, in which nothing may be taken for one."""
    faults = suite("R9")(tier, draws) if draws.only is None else Outcome(0, 0)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)

        def trial(index: int, generator: random.Random) -> str | None:
            policy, folder, errors = ("skip", "rollback", "stop")[index % 3], work / str(index), work / f"{index}.err"
            rate, seed = 10 ** generator.uniform(-4, -1), generator.randrange(10_000)
            words = words_of(work, "train.steps=100", f"nan_policy={policy}", f"seed={seed}", f"run.dir={folder}")
            child = fork([*words, f"optimizer.learning_rate={rate:.6f}"], errors)
            if child.wait() != 0 or "finite" in errors.read_text() or "going back" in errors.read_text():
                return f"a false alarm, {policy}, seed {seed}: ended with {child.code}: {tail(errors)}"
            skipped = json.loads((folder / "run.json").read_text())["metrics"].get("train/skipped", 0)
            return f"{skipped} updates were skipped, seed {seed}" if skipped else None

        clean = run_trials(draws, CLEAN[tier], trial)
    figures = f"{faults.done} tests of faults, {clean.done} runs without one"
    return Outcome(faults.done + clean.done, faults.failed + clean.failed, (figures, *faults.details, *clean.details))


def records(tier: int, draws: Draws) -> Outcome:
    """C3: the tests of secrets, and runs from the config that another one recorded, which end as that one did."""
    secrets = suite("C3")(tier, draws) if draws.only is None else Outcome(0, 0)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)

        def trial(index: int, generator: random.Random) -> str | None:
            first, again, errors = work / f"{index}a", work / f"{index}b", work / f"{index}.err"
            words = words_of(work, "train.steps=40", f"seed={generator.randrange(10_000)}")
            words += [f"data.batch_size={generator.choice((8, 16, 24))}", f"ema={generator.choice((0.5, 0.9))}"]
            codes = [fork([*words, f"run.dir={first}"], errors).wait()]
            codes += [fork(["train", str(first), f"run.dir={again}"], errors).wait()]
            if codes != [0, 0]:
                return f"ended with {codes}: {tail(errors)}"
            texts = [(folder / "config.yaml").read_text().replace(str(folder), "") for folder in (first, again)]
            return "the config differs" if texts[0] != texts[1] else fingerprint(again).differs(fingerprint(first))

        outcome = run_trials(draws, AGAIN[tier], trial)
    figures = f"{secrets.done} tests of secrets, {outcome.done} configs run again"
    details = (figures, *secrets.details, *outcome.details)
    return Outcome(secrets.done + outcome.done, secrets.failed + outcome.failed, details)
