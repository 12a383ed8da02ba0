"""`python -m benchmarks.checkpoints [MODE]`: what a checkpoint every 500 steps costs the MNIST CNN.

It compares the windows around a save with the other windows of the same process: two processes differ by more.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.framework_run import MODES, run
from benchmarks.images import find_mnist
from benchmarks.workloads import WORKLOADS, Marks, Plan

EVERY, WINDOW, STEPS = 500, 50, 2500


def main(mode: str) -> None:
    """Print milliseconds a step, and for each save the excess of the three windows that it can reach into."""
    sys.path.insert(0, str(Path(__file__).parent / "plugin"))  # where the stopwatch is registered
    workload = WORKLOADS["lenet"]
    synthetic = 0 if find_mnist() else 60_000
    plan = Plan(steps=STEPS, warmup=0, window=WINDOW, synthetic=synthetic, batch_size=workload.batch_size)
    usual, excess = _compare(run(workload, plan, MODES[mode]))
    lost = statistics.median(excess) / (usual / WINDOW * EVERY)
    each = ", ".join(f"{seconds * 1000:.0f}" for seconds in excess)
    print(f"{mode}: {usual / WINDOW * 1000:.1f} ms a step; the saves cost {each} ms: {lost:.2%} of the time")


def _compare(marks: Marks) -> tuple[float, list[float]]:
    """Seconds of a usual window, and what the windows around each save take beyond three of those."""
    at = dict(marks)
    saves = range(EVERY, STEPS, EVERY)
    near = {save + after for save in saves for after in (0, WINDOW, 2 * WINDOW)}
    far = [step for step in at if step - WINDOW in at and step > EVERY // 2 and step not in near]
    usual = statistics.median(at[step] - at[step - WINDOW] for step in far)
    return usual, [at[save + 2 * WINDOW] - at[save - WINDOW] - 3 * usual for save in saves]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "framework-checkpoints")
