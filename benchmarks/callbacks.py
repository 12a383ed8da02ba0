"""`python -m benchmarks.callbacks`: what callbacks, probes and evaluations cost a run, in processor time."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any
from unittest.mock import patch

from framework import experiment
from framework.api import Callback
from framework.config.compose import compose
from framework.console.tables import text_table
from framework.records.history import HistoryWriter
from framework.runs.probes import Probing
from framework.runs.run import run
from framework.training.loop import Loop

RUNS = {
    "mnist": ["+experiment=mnist"],
    "w3": ["model=mlp", "model.hidden=[64]", "optimizer.learning_rate=0.001", "train.steps=1872"],
}

HOOKS = ("on_built", "on_start", "on_log", "on_state", "on_media", "settle", "on_end")

Spent = dict[str, float]
"""Seconds of the processors by what they were spent on."""


class Meter:
    """Seconds of the processors that calls take, without those of the metered calls within them."""

    def __init__(self) -> None:
        self.spent: Spent = defaultdict(float)
        self._within = [0.0]

    def metered(self, call: Callable[..., Any], name: str, clock: Callable[[], float]) -> Callable[..., Any]:
        """Return a function that does the same, and is metered."""

        @wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            began = clock()
            self._within.append(0.0)
            try:
                return call(*args, **options)
            finally:
                elapsed, within = clock() - began, self._within.pop()
                self.spent[name] += elapsed - within
                self._within[-1] += elapsed

        return timed


def measure(words: list[str]) -> tuple[Spent, float]:
    """Make one run.

    Returns: seconds by callback, and of evaluations; seconds of the whole run.
    """
    meter = Meter()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:

        def watch(built: experiment.Experiment) -> experiment.Experiment:
            kinds = {type(each.callback): each.key.rpartition(".")[2] for each in built.callbacks}
            for kind, name in {**kinds, Probing: "probes", HistoryWriter: "metrics.jsonl"}.items():
                for hook in HOOKS:
                    call = getattr(kind, hook)
                    if call is not getattr(Callback, hook):
                        # The devices train on while metrics are logged, and wait where a state is shown.
                        clock = time.thread_time if hook in ("on_log", "settle") else time.process_time
                        stack.enter_context(patch.object(kind, hook, meter.metered(call, name, clock)))
            return built

        probed = meter.metered(experiment._probed, "probes", time.process_time)
        stack.enter_context(patch.object(experiment, "_probed", probed))
        evaluated = meter.metered(Loop._evaluate, "evaluations", time.process_time)
        stack.enter_context(patch.object(Loop, "_evaluate", evaluated))
        began = time.process_time()
        run(compose([*words, f"run.dir={folder}/run"]), watch)
        return meter.spent, time.process_time() - began


def main(words: list[str]) -> None:
    """Print a table for each run: the first one fills the cache of compiled programs, and is left out."""
    for name, chosen in RUNS.items():
        measure([*chosen, *words])
        spent, whole = measure([*chosen, *words])
        rows = [(name, "seconds", "of the run")]
        others = {part: seconds for part, seconds in spent.items() if part != "evaluations"}
        for part, seconds in [
            *sorted(spent.items(), key=lambda row: -row[1]),
            ("all but evaluations", sum(others.values())),
            ("the run", whole),
        ]:
            rows.append((part, f"{seconds:.3f}", f"{seconds / whole:.2%}"))
        print(text_table(rows, right=(1, 2)), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
