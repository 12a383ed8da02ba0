"""`python -m benchmarks.recorder`: what the flight recorder adds to a step, in one process, in turns."""

from __future__ import annotations

import itertools
import statistics
import time

import jax

from benchmarks.framework_run import overrides_of
from benchmarks.workloads import WORKLOADS, Plan
from framework.config.compose import compose
from framework.console.tables import text_table
from framework.contracts.components import updates
from framework.experiment import build
from framework.registry.entry_points import discover
from framework.tasks.nonfinite import finite_leaves
from framework.training.chunks import steps_per_call
from framework.training.recorder import PERIOD, Recorder
from framework.training.stepper import compiled, stepper

ROUNDS = 5


def measure(name: str) -> tuple[float, float, int]:
    """Time `PERIOD` steps without and with a copy at their end, in turns.

    Returns: seconds of the processors for both, medians over the rounds, and the bytes of the state.
    """
    workload = WORKLOADS[name]
    experiment = build(compose(overrides_of(workload, Plan(workload.steps, 0, 50, 0, workload.batch_size))), discover())
    experiment = experiment._replace(callbacks=(), total_steps=10**9)
    state = experiment.strategy.init(experiment.init, experiment.settings.seed)
    finite, program = finite_leaves(state), compiled(experiment, steps_per_call(experiment, state))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    recorder = Recorder(experiment, program, state, lambda: experiment.strategy.init(experiment.init, 0))
    with stepper(experiment, program, itertools.count(PERIOD, PERIOD)) as advance:
        for turn in range(2 * ROUNDS + 4):
            at, has_recorder = updates(state), turn % 2 == 1
            began = time.process_time()
            state, _ = advance(state, at, at + PERIOD)
            if has_recorder:
                recorder.look(state, at + PERIOD, False)
                recorder.passed(at + PERIOD, finite)
            jax.block_until_ready(state)
            if turn >= 4:  # the first compile
                seconds[has_recorder].append(time.process_time() - began)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params) + jax.tree.leaves(state.opt_state))
    return statistics.median(seconds[False]), statistics.median(seconds[True]), size


def main() -> None:
    """Print a table for W1 to W4."""
    rows: list[tuple[str, ...]] = [("workload", "state", "step", "with the recorder", "ratio")]
    for name in ("w1", "w2", "w3", "w4"):
        without, having, size = measure(name)
        steps = [f"{1e3 * each / PERIOD:.3f} ms" for each in (without, having)]
        rows.append((name, f"{size / 1e6:.1f} MB", *steps, f"{having / without:.4f}"))
    print(text_table(rows, right=range(1, 5)))


if __name__ == "__main__":
    main()
