"""`python -m benchmarks.checkpoints [MODE]`: what a checkpoint every 500 steps costs the MNIST CNN.

A machine whose speed wanders by a few percent hides what is a fraction of one. Runs that save 50 times as often, in
turn with runs that never do, show the same cost 50 times as large.
"""

from __future__ import annotations

import statistics
import sys
from itertools import pairwise
from pathlib import Path

from benchmarks.framework_run import MODES, run
from benchmarks.images import find_mnist
from benchmarks.workloads import WORKLOADS, Plan

EVERY, DENSE, WINDOW, STEPS, ROUNDS = 500, 10, 50, 300, 6
"""Steps between two saves, as asked about and as measured, in a window and in a run; pairs of runs."""


def main(mode: str) -> None:
    """Print milliseconds a step with and without saves, in turn, and what is lost to a save every 500 steps."""
    sys.path.insert(0, str(Path(__file__).parent / "plugin"))  # where the stopwatch is registered
    workload = WORKLOADS["lenet"]
    synthetic = 0 if find_mnist() else 60_000
    plan = Plan(steps=STEPS, warmup=0, window=WINDOW, synthetic=synthetic, batch_size=workload.batch_size)
    never, dense = (*MODES[mode], "train.checkpoint_every=0"), (*MODES[mode], f"train.checkpoint_every={DENSE}")
    lost = []
    for _ in range(ROUNDS):
        without, with_saves = (_step_seconds(run(workload, plan, words)) for words in (never, dense))
        lost.append(DENSE * (with_saves - without) / (EVERY * without))
        times = f"{without * 1000:.2f} ms a step, {with_saves * 1000:.2f} with a save every {DENSE} steps"
        print(f"{times}: one every {EVERY} costs {lost[-1]:.3%} of the time")
    print(f"{mode}: {statistics.median(lost):.3%} of the time, at most {max(lost):.3%} in one round")


def _step_seconds(marks: list[tuple[int, float]]) -> float:
    """The median over all windows but the first, in which the step is compiled."""
    windows = [(end - start) / WINDOW for (_, start), (_, end) in pairwise(marks)]
    return statistics.median(windows[1:])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "framework-checkpoints")
