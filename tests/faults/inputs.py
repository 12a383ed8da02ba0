"""Bad and hostile input as rows: C1, C2, S1, S2; and what discovery (P2) and the imports (S3) do."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

from tests.faults import configs, hostile
from tests.faults.trials import Draws, Outcome, run_trials

MUTATIONS = {1: 60, 2: 2000, 3: 20_000}
BY_COMMAND = 20
"""One mutation in so many goes by the command line, which looks its origin up too."""

PLUGINS = {1: (0, 50), 2: (0, 50, 200), 3: (0, 50, 200)}
EACH = 0.02
"""Seconds of computing that one more distribution may add to the listing, which is ten times what it adds."""

ROOT = Path(__file__).parents[2]


def refusals(tier: int, draws: Draws) -> Outcome:
    """C1."""
    cases = configs.CASES if tier > 1 else configs.CASES[::4]
    with tempfile.TemporaryDirectory(prefix="faults-") as name, contextlib.chdir(name):
        outcomes: list[configs.Outcome] = []

        def trial(index: int, _: random.Random) -> str | None:
            outcomes.append(configs.refuse(cases[index], Path(name)))
            case, found = cases[index], outcomes[-1]
            return found.fault and f"{case.words or case.text!r}: {found.fault}: {found.line}"

        outcome = run_trials(draws, len(cases), trial)
        slowest = f"slowest {max(found.seconds for found in outcomes):.2f} s"
        return outcome._replace(details=(slowest, *outcome.details))


def mutations(tier: int, draws: Draws) -> Outcome:
    """C2: the bombs come first."""
    bombs = list(configs.bombs().values())
    texts = [text for _, text in configs.mutations(draws.number, MUTATIONS[tier])]
    with tempfile.TemporaryDirectory(prefix="faults-") as name, contextlib.chdir(name):

        def trial(index: int, _: random.Random) -> str | None:
            if index < len(bombs):
                return configs.compose_mutation(configs.HEADER + bombs[index], Path(name), by_command=True)
            number = index - len(bombs)
            return configs.compose_mutation(texts[number], Path(name), by_command=number % BY_COMMAND == 0)

        good = [text for text in configs.GOOD if configs.compose_mutation(configs.HEADER + text, Path(name), True)]
        outcome = run_trials(draws, len(bombs) + len(texts), trial)
        control = [f"control: refused, though it is good: {text!r}" for text in good]
        return outcome._replace(failed=outcome.failed + len(control), details=(*outcome.details, *control))


def attacks(kind: str) -> Callable[[int, Draws], Outcome]:
    """S1 for kind "configs", S2 for "files"; in a process of their own, since an audit hook cannot be taken away."""

    def row(tier: int, draws: Draws) -> Outcome:
        command = [sys.executable, "-m", "tests.faults.hostile", kind]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        count = len(hostile.FILES) if kind == "files" else len(hostile.CONFIGS) + len(hostile.WORDS)
        lines = tuple(done.stdout.splitlines())
        if done.returncode not in (0, 1) or (done.returncode == 1) != bool(lines):
            lines = (*lines, f"ended with {done.returncode}: {done.stderr[-500:]}")
        return Outcome(count, len(lines), lines)

    return row


def discovery(tier: int, draws: Draws) -> Outcome:
    """P2: distributions that nobody names are not imported, and cost next to nothing."""
    seconds, problems = {}, []
    for count in PLUGINS[tier]:
        with tempfile.TemporaryDirectory(prefix="faults-") as name:
            for index in range(count):
                info = Path(name) / f"dummy_{index}-1.0.dist-info"
                info.mkdir()
                (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dummy_{index}\nVersion: 1.0\n")
                (info / "entry_points.txt").write_text(f"[framework.models]\nm{index} = dummy_{index}:m\n")
                (Path(name) / f"dummy_{index}.py").write_text("def m(): ...\n")
            told = [_output("plugin_listing.py", PYTHONPATH=name) for _ in range(3)]
            seconds[count] = min(taken for taken, _ in told)
            problems += [f"{count} distributions: imported {names[:3]}" for _, names in told if names]
    each = [(seconds[count] - seconds[0]) / count for count in PLUGINS[tier] if count]
    problems += [f"{taken * 1000:.2f} ms for each distribution" for taken in each if taken > EACH]
    figures = ", ".join(f"{count}: {taken * 1000:.0f} ms" for count, taken in seconds.items())
    return Outcome(len(seconds), len(problems), (f"discovery with so many more distributions: {figures}", *problems))


def imports(tier: int, draws: Draws) -> Outcome:
    """S3: the core and every plugin that ships with it; the wheel's list of files is `tests/e2e/test_wheel.py`'s."""
    seen, threads = _output("imports.py")
    problems = [f"an import did {event}" for event in seen] + [f"an import began thread {name}" for name in threads]
    if not _output("imports.py", "control")[0]:
        problems.append("control: a process that was started was not seen")
    paths = [path for path in distribution("framework").files or () if path.suffix == ".pth"]
    foreign = [str(path) for path in paths if not path.name.startswith("__editable__")]
    problems += [f"it installs {name}, which runs at every start of Python" for name in foreign]
    return Outcome(1, len(problems), tuple(problems))


def _output(program: str, *words: str, **environment: str) -> list:
    """Run a program of the tests, and read the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "programs" / program, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{program} ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
