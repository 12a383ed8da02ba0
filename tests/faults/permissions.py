"""S5: whatever the umask is, others write nowhere in what a run leaves, and do not reach its checkpoints or lock."""

from __future__ import annotations

import os
import random
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.processes import start
from tests.faults.runs import tail, words_of
from tests.faults.trials import Draws, Outcome, run_trials

MASKS = (0o022, 0o000, 0o077)
WORDS = ("train.steps=20",)


def permissions(tier: int, draws: Draws) -> Outcome:
    """S5, the same at every tier."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        words = words_of(work, *WORDS)

        def trial(index: int, _: random.Random) -> str | None:
            mask, place = MASKS[index], work / str(index)
            errors = work / f"{index}.err"
            child = start([*words, f"run.root={place}/runs"], errors, umask=mask)
            if child.wait() != 0:
                return f"umask {mask:03o}: ended with {child.code}: {tail(errors)}"
            bad = sorted(_exposed(place))
            return f"umask {mask:03o}: {', '.join(bad)}" if bad else None

        return run_trials(draws, len(MASKS), trial)


def _exposed(root: Path) -> Iterator[str]:
    """List the files that others can write, and those of the lock and the checkpoints that they can read."""
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(folder) / name
            inner = path.relative_to(root)
            mode = path.stat().st_mode
            way = [root / parent for parent in inner.parents if parent != Path()]
            if not all(parent.stat().st_mode & stat.S_IXOTH for parent in way):
                continue  # nobody else comes so far
            if mode & stat.S_IWOTH:
                yield f"{inner} is writable by all"
            if mode & stat.S_IROTH and ("checkpoints" in inner.parts or name == "lock"):
                yield f"{inner} is readable by all"
