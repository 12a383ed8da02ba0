"""Interleaved rounds: every contender once in each, so that what changes slowly on a machine hits all alike."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.contenders import CONTENDERS, unasked
from benchmarks.machine import await_quiet
from benchmarks.trial import Trial, launch
from benchmarks.workloads import WORKLOADS, Plan

START = {"steps": 1, "warmup": 1, "window": 1}


class Session(NamedTuple):
    """The measurements of a session, and their length.

    Attributes:
      contenders: names; empty for those that a workload takes unasked.
      measures: of "steady" and "start".
      attempts: how often a trial is run until others leave it alone; the least disturbed one is kept.
      patience: seconds to wait for a quiet machine before each attempt.
      steps: timed ones; 0 for the workload's own number.
      synthetic: examples made up on the spot; 0 for MNIST.
    """

    workloads: Sequence[str]
    contenders: Sequence[str]
    measures: Sequence[str]
    rounds: int
    attempts: int
    patience: float
    steps: int
    window: int
    synthetic: int


def trials(session: Session) -> Iterator[Trial]:
    """Run everything; contenders take turns, and go first in turn."""
    with tempfile.TemporaryDirectory() as cache:
        for workload in session.workloads:
            names = list(session.contenders) or unasked(WORKLOADS[workload])
            for name in names if "start" in session.measures else []:
                if CONTENDERS[name].cached and CONTENDERS[name].start:
                    launch(workload, name, "start", _plan(session, workload, "start"), -1, cache)
            for round in range(session.rounds):
                first = round % len(names)
                for name in [*names[first:], *names[:first]]:
                    for measure in session.measures:
                        if measure == "steady" or CONTENDERS[name].start:
                            yield _best(session, workload, name, measure, round, cache)


def _best(session: Session, workload: str, name: str, measure: str, round: int, cache: str) -> Trial:
    """The first clean attempt, else the least disturbed one."""
    attempts: list[Trial] = []
    while len(attempts) < session.attempts and not (attempts and attempts[-1].clean):
        await_quiet(session.patience)
        attempts.append(launch(workload, name, measure, _plan(session, workload, measure), round, cache))
    best = min(attempts, key=lambda trial: trial.foreign)
    unit = "ms/step" if measure == "steady" else "s to the first step"
    tried = f", {len(attempts)} attempts" if len(attempts) > 1 else ""
    print(f"{round} {workload} {name}: {best.value:.3f} {unit}, others {best.foreign:.0%}{tried}", file=sys.stderr)
    return best


def _plan(session: Session, workload: str, measure: str) -> Plan:
    common = {"synthetic": session.synthetic, "batch_size": WORKLOADS[workload].batch_size}
    if measure == "start":
        return Plan(**START, **common)
    steps = session.steps or WORKLOADS[workload].steps
    return Plan(steps=steps, warmup=2 * session.window, window=session.window, **common)
