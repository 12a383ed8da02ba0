"""Sabotage of a child before its command line runs: stop it at a step, or break it, so that a control must fail."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def exit_after_save(step: int) -> None:
    """End as `kill -9` would, as soon as a step is saved."""
    from framework.checkpoints import checkpoint

    commit = checkpoint.commit

    def commit_and_exit(folder: Path, at: int, *rest: Any) -> Path:
        target = commit(folder, at, *rest)
        if at == step:
            os._exit(137)
        return target

    checkpoint.commit = commit_and_exit


def log_rows(path: Path) -> None:
    """Append, for each training batch that is asked for, its step and which examples it holds."""
    from framework_data.pipeline import InMemoryPipeline

    rows = InMemoryPipeline.rows

    def logged(self: InMemoryPipeline, seed: int, step: int) -> Any:
        found = rows(self, seed, step)
        with path.open("a") as file:
            file.write(json.dumps([step, found.tolist()]) + "\n")
        return found

    InMemoryPipeline.rows = logged


def slow_evaluation(path: Path, seconds: float) -> None:
    """Take so long for each batch of an evaluation, and append when it began."""
    from framework.training import loop

    measure = loop.measure

    def slowly(step: Any, *args: Any) -> Any:
        def noted(*batch: Any) -> Any:
            with path.open("a") as file:
                file.write(f"{time.monotonic()}\n")
            time.sleep(seconds)
            return step(*batch)

        return measure(noted, *args)

    loop.measure = slowly


def forget_position() -> None:
    """Begin the data anew at every start of the process."""
    from framework_data.pipeline import InMemoryPipeline

    rows, first = InMemoryPipeline.rows, []

    def forgetful(self: InMemoryPipeline, seed: int, step: int) -> Any:
        first.append(step)
        return rows(self, seed, step - first[0])

    InMemoryPipeline.rows = forgetful


def forget_key() -> None:
    """Restore all of a state but its key."""
    import jax

    from framework.runs import resume

    newest_state = resume.newest_state
    resume.newest_state = lambda *args: newest_state(*args)._replace(key=jax.random.key(20_001))


def forge(folder: Path, step: int) -> None:
    """Change one number of a checkpoint, and its digests with it, and end."""
    import numpy as np

    from framework.checkpoints import checkpoint
    from framework.checkpoints.npz import FILES

    with np.load(folder / str(step) / FILES.place) as file:
        leaves = {name: file[name] for name in file}
    manifest = json.loads((folder / str(step) / checkpoint.MANIFEST).read_text())["leaves"]
    tree = {
        name: content.view(np.dtype(manifest[name]["dtype"])).reshape(manifest[name]["shape"])
        for name, content in leaves.items()
    }
    name = next(name for name in tree if name.startswith("params/") and tree[name].ndim == 2)
    tree[name] = tree[name] + np.float32(1e-3)
    checkpoint.commit(folder, step, tree)
    os._exit(0)
