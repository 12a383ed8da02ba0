"""The framework as a user runs it, with a stopwatch among its callbacks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import framework
from benchmarks.workloads import Marks, Plan, Workload

MODES: dict[str, tuple[str, ...]] = {
    "framework": (),
    "framework-step": ("train.steps_per_call=1",),
    "framework-chunk": ("train.steps_per_call=50",),
    "framework-cold": ("run.compilation_cache=false",),
    "framework-bare": ("callbacks=[]",),
    "framework-checkpoints": ("train.checkpoint_every=500",),
    "framework-checkpoints-between": ("train.checkpoint_every=500", "callbacks.checkpoint.asynchronous=false"),
    "framework-checkpoints-orbax": ("train.checkpoint_every=500", "callbacks.checkpoint.store=orbax"),
}
"""Ways to run it, as overrides; the first is the default, with TensorBoard, progress and metrics log."""


def run(workload: Workload, plan: Plan, mode: Sequence[str]) -> Marks:
    """Train for the plan's steps and a window more, since the stopwatch leaves the last window out.

    Nothing is evaluated in between, as nothing is in the loops by hand.
    """
    overrides = [*overrides_of(workload, plan), *mode, "callbacks+=stopwatch"]
    with tempfile.TemporaryDirectory() as folder:
        framework.run([*overrides, f"run.dir={folder}/run"])
        marks = json.loads(Path(folder, "run", "stopwatch.json").read_text())
    return [(step, when) for step, when in marks]


def overrides_of(workload: Workload, plan: Plan) -> list[str]:
    """Return the words that choose a workload and the length of its run."""
    data = (
        _text()
        if workload.is_text
        else ["data=synthetic", f"data.examples={plan.synthetic}", "data.shape=[28,28,1]"]
        if plan.synthetic
        else ["data=mnist", "data.offline=error"]
    )
    return [
        *workload.model,
        *data,
        f"data.batch_size={plan.batch_size}",
        f"optimizer.learning_rate={plan.learning_rate}",
        f"train.steps={plan.warmup + plan.steps + plan.window}",
        f"train.log_every={plan.window}",
        "train.eval_every=0",
    ]


def _text() -> list[str]:
    from benchmarks.gpt import find_text

    path = find_text()
    return ["data=text"] if path is None else ["data=text", f"data.path={path}"]
