"""What is told of a run: to callbacks, to whoever reads its run.json, and to who waits for its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framework.api import Run, TrainState
from framework.checkpoints import snapshot
from framework.distributed import processes
from framework.ensembles import members
from framework.ensembles.task import updates
from framework.experiment import Experiment
from framework.runs import record


def run_facts(experiment: Experiment, directory: Path, name: str, state: TrainState | None) -> Run:
    """What a callback may know of a run that begins from a state, or from the start."""
    devices = jax.devices()
    return Run(
        directory=directory,
        name=name,
        config=experiment.config,
        start_step=0 if state is None else updates(state),
        total_steps=experiment.total_steps,
        steps_per_epoch=experiment.data.steps_per_epoch,
        batch_size=experiment.batch_size,
        parameters=experiment.parameters,
        state_bytes=snapshot.size(experiment.shapes),
        facts={
            "data": experiment.data.source,
            "devices": f"{experiment.strategy.devices} of {len(devices)} × {devices[0].device_kind}",
            "processes": str(processes.count()),
            "strategy": str(experiment.config["strategy"]["name"]),
            "directory": str(directory),
        },
    )


def entry_of(experiment: Experiment, name: str) -> dict[str, Any]:
    """What run.json says of a run, whatever becomes of it."""
    shapes = jax.tree.map(lambda leaf: [-1, *leaf.shape[1:]], experiment.data.spec["inputs"])
    return {
        "name": name,
        "seed": experiment.settings.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": experiment.data.source,
        "facts": data_facts(experiment),
        "total_steps": experiment.total_steps,
        "inputs": shapes,
        "config": experiment.config,
        "members": None if experiment.members is None else members.rows(experiment.members),
        "plugins": record.provenance(experiment.plugins),
        **record.environment(),
    }


def summarise(metrics: Mapping[str, float], directory: Path, reason: str, rows: Sequence[members.Row] | None) -> None:
    """Log how a run ended: the last value of every tag, the table of its members, and where to look further."""
    hidden = [tag for tag in metrics if tag.startswith("perf/") or (rows and members.is_of_member(tag, metrics))]
    shown = {tag: value for tag, value in metrics.items() if tag not in hidden}
    width = max(map(len, shown), default=0)
    lines = [f"  {tag:<{width}}  {value:.6g}" for tag, value in shown.items() if np.isscalar(value)]
    lines += members.table(rows) if rows else []
    ended = f"stopped early: {reason}" if reason else "done"
    record.LOGGER.info(
        "\n".join([ended, *lines, f"run folder: {directory}", f"curves:     tensorboard --logdir {directory}"])
    )


def data_facts(experiment: Experiment) -> dict[str, Any]:
    """What a pipeline says of its data that a model needs to be used, such as an alphabet."""
    return dict(getattr(experiment.data, "facts", {}))
