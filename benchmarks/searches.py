"""`python -m benchmarks.searches`: halving against a full grid, and pbt against random search at equal cost."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import framework
from benchmarks.trial import ROOT
from framework.api import Interval
from framework.console.tables import text_table
from framework.sweeps.folder import ledger_of
from framework.sweeps.ledger import Ledger
from framework_searches.listed import draws

DIGITS = ["data=digits", "data.size=8", "model=mlp"]

POINTS = [
    "optimizer.learning_rate=1e-4,1e-3,1e-2",
    "model.hidden=[16],[64],[256]",
    "model.activation=relu,tanh,sigmoid",
]
"""27 points."""

STEPS = 900

NOISY = [
    "optimizer=sgd",
    "model.hidden=[64]",
    "data.batch_size=4",
    "data.transform=[{gaussian_noise: {scale: 1}}]",
    "callbacks=[]",
]
"""A problem whose learning rate must change: batches so small and noisy that a high rate cannot settle, and a low one
does not arrive."""

RATES = Interval("optimizer.learning_rate", 1e-3, 3.0, log=True)
MEMBERS, UPDATES, EVERY = 16, 3000, 200


class Sweep(NamedTuple):
    """The outcome of a sweep: updates of all points, seconds, the best point, and its loss."""

    updates: int
    seconds: float
    best: str
    loss: float


def sweep(words: Sequence[str]) -> Sweep:
    """Train a sweep over the 27 points, one after the other, as a user does."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        lengths = [f"train.steps={STEPS}", "train.eval_every=0", "callbacks=[checkpoint]", "launcher=turn"]
        command = [sys.executable, "-m", "framework", "-m", *DIGITS, *POINTS, *lengths, "sweep.dir=sweep", *words]
        began = time.monotonic()
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
        path = ledger_of(Path(folder, "sweep"))
        with Ledger(path) as ledger:
            points = ledger.points()
        best = min((point for point in points if point.state == "done"), key=lambda point: point.scalars["eval/loss"])
        name = " ".join(f"{key}={value}" for key, value in best.parameters.items())
        return Sweep(sum(point.step for point in points), seconds, name, best.scalars["eval/loss"])


def halving() -> str:
    """Compare halving with the whole grid."""
    found = {"grid": sweep(["search=grid"])}
    found["halving"] = sweep(["search=halving", f"search.first={STEPS // 9}", "search.sampler=grid"])
    whole, rows = found["grid"], [("search", "updates", "of the grid's", "s", "best point", "eval/loss")]
    for name, each in found.items():
        share = f"{each.updates / whole.updates:.2f}"
        rows.append((name, f"{each.updates:,}", share, f"{each.seconds:.0f}", each.best, f"{each.loss:.4f}"))
    return text_table(rows, right=(1, 2, 3))


def population(repeat: int) -> tuple[float, float]:
    """Return the best evaluation loss of random search, and that of pbt: as many members and updates each."""
    first = 100 * repeat
    rates = [point[RATES.key] for point in draws([RATES], repeat, MEMBERS)]
    fixed = f"strategy.members={{seed: {first}-{first + MEMBERS - 1}, {RATES.key}: {rates}}}"
    space = f"strategy.space={{{RATES.key}: {{low: {RATES.low}, high: {RATES.high}, log: true}}}}"
    evolving = [f"strategy.members={MEMBERS}", f"strategy.every={EVERY}", f"strategy.seed={repeat}", space]
    losses = []
    for words in (["strategy=vmapped", fixed], ["strategy=pbt", *evolving]):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            lengths = [f"train.steps={UPDATES}", "train.eval_every=0", f"seed={first}", f"run.root={folder}"]
            metrics = framework.run([*DIGITS, *NOISY, *lengths, *words]).metrics
        losses.append(min(value for tag, value in metrics.items() if tag.startswith("eval/loss/")))
    return losses[0], losses[1]


def populations(repeats: int) -> str:
    """Compare pbt with random search."""
    rows = [("repeat", "random", "pbt")]
    for repeat in range(repeats):
        fixed, evolved = population(repeat)
        rows.append((str(repeat), f"{fixed:.4f}", f"{evolved:.4f}"))
    return text_table(rows, right=(1, 2))


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of pbt and random search, each with seeds of its own")
    parser.add_argument("--only", choices=["halving", "pbt"])
    arguments = parser.parse_args(words)
    if arguments.only != "pbt":
        print(halving())
    if arguments.only != "halving":
        print(populations(arguments.repeats))


if __name__ == "__main__":
    main()
