"""`python -m benchmarks.after`: what is done with a trained model, against an evaluation during training, in turns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

import framework
from benchmarks.framework_run import overrides_of
from benchmarks.images import find_mnist
from benchmarks.workloads import WORKLOADS, Plan
from framework.console.tables import text_table
from framework.trained.evaluated import evaluated, metrics_of, opened
from framework.training.evaluation import measure, results

SECONDS, LOADS = 10.0, 5
"""Of each network's turns, and processes that load a model."""

LARGE = ("data=digits", "model=mlp", "model.hidden=[4096,4096,1600]", "optimizer=sgd", "train.steps=1")
"""A model of 26.6 million parameters in float32, 106 MB."""

LOAD = """
import sys, time
import framework, jax
jax.devices(), framework.load
began = time.perf_counter(), time.process_time()
model = framework.load(sys.argv[1])
jax.block_until_ready(model.params)
print(time.perf_counter() - began[0], time.process_time() - began[1])
"""


class Seconds(NamedTuple):
    """The time of one turn, by the clock and of the processors."""

    clock: float
    processors: float


def timed(do: Callable[[], object]) -> Seconds:
    """Do something once, and tell its time."""
    began, burnt = time.perf_counter(), time.process_time()
    do()
    return Seconds(time.perf_counter() - began, time.process_time() - burnt)


def best(turns: Sequence[Seconds]) -> Seconds:
    """Return the least of each time, since others on the machine only add to it."""
    return Seconds(*map(min, zip(*turns, strict=True)))


def speeds(run: Path) -> tuple[int, dict[str, Seconds]]:
    """Time an evaluation as the loop makes it, `evaluate` and `predict` of the same examples, in turns.

    Returns: the number of examples, and the best time of each way.
    """
    subject = opened(run)
    experiment, split = subject.experiment, subject.experiment.data.splits[0]
    step, feed = experiment.strategy.evaluate(experiment.task.eval_step), experiment.strategy.feed
    images = next(each for name, each, _ in experiment.data.examples() if name == split)["inputs"]
    model = framework.load(run)

    def during() -> dict[str, float]:
        means = measure(step, feed, subject.state, experiment.batches.eval(split))
        assert isinstance(means, dict)
        return results(experiment.task, means, "eval")

    ways: dict[str, Callable[[], object]] = {
        "during training": during,
        "evaluate": lambda: metrics_of(subject, evaluated(subject, split)),
        "predict": lambda: model.predict(images),
    }
    turns: dict[str, list[Seconds]] = {name: [] for name in ways}
    for do in ways.values():  # the first compiles
        do()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for name, do in ways.items():
            turns[name].append(timed(do))
    return len(images), {name: best(each) for name, each in turns.items()}


def loading(run: Path) -> Seconds:
    """Load a model in processes of their own, after the imports."""

    def load() -> Seconds:
        done = subprocess.run([sys.executable, "-c", LOAD, str(run)], check=True, capture_output=True, text=True)
        return Seconds(*map(float, done.stdout.split()))

    return best([load() for _ in range(LOADS)])


def main() -> None:
    """Print a table of speeds, and the time of a load."""
    rows: list[tuple[str, ...]] = [("network", "way", "images/s", "of the evaluation's", "by processor time")]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("w3", "lenet"):
            plan = Plan(20, 0, 10, 0 if find_mnist() else 20_000)
            run = framework.run([*overrides_of(WORKLOADS[name], plan), f"run.dir={folder}/{name}"])
            count, found = speeds(run.directory)
            during = found["during training"]
            for way, each in found.items():
                ratios = during.clock / each.clock, during.processors / each.processors
                rows.append((name, way, f"{count / each.clock:,.0f}", *(f"{ratio:.2f}" for ratio in ratios)))
        large = framework.run([*LARGE, f"run.dir={folder}/large"])
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(large.model.params))
        found = loading(large.directory)
    print(text_table(rows, right=range(2, 5)))
    print(f"\nload of {size / 1e6:.0f} MB, beyond imports: {found.clock:.2f} s, {found.processors:.2f} of processors")


if __name__ == "__main__":
    main()
