"""The run folder: made exclusively, with the config and the record of what ran."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from omegaconf import OmegaConf

from framework.api import Run, TrainState
from framework.checkpoints import snapshot
from framework.config.secrets import masked, masked_words
from framework.contracts import updates
from framework.distributed import processes
from framework.ensembles import members
from framework.errors import StorageError, writing
from framework.experiment import Experiment
from framework.registry.entry_points import Plugin
from framework.runs.logs import LOGGER


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write `config.yaml`, resolved, which `python -m framework train RUN` runs again."""
    _replace(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def write_record(directory: Path, record: Mapping[str, Any], hidden: Collection[str] = ()) -> None:
    """Write `run.json`, without the secrets in it."""
    _replace(directory / "run.json", json.dumps(masked(record, hidden), indent=2) + "\n")


@contextmanager
def concluding(exit_code: int) -> Iterator[None]:
    """Where how a run ended cannot be written either, the error that ended it is the one to tell."""
    try:
        yield
    except StorageError as error:
        if exit_code == 0:
            raise
        LOGGER.warning(str(error))


def _replace(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader never finds half of it, nor who resumes a killed run."""
    if processes.index() > 0:
        return
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_text(text)
        partial.replace(path)


def environment() -> dict[str, Any]:
    """Versions, devices, command and git commit: what one must know to run it again."""
    packages = ("framework", "jax", "jaxlib", "optax", "numpy", "hydra-core", "tensorboard")
    return {
        "command": masked_words(sys.argv, ()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in packages},
        "devices": [str(device) for device in jax.local_devices()],
        "git_commit": _git_commit(),
        "process": os.getpid(),
        "processes": processes.count(),
    }


def provenance(plugins: Mapping[str, Plugin]) -> dict[str, dict[str, str]]:
    """Which distribution each component came from, by config key."""
    return {
        key: {"kind": p.kind, "name": p.name, "distribution": p.distribution, "version": p.version, "target": p.target}
        for key, p in plugins.items()
    }


def _git_commit() -> str | None:
    """The commit of the folder one works in, where it is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


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
        "plugins": provenance(experiment.plugins),
        **environment(),
    }


def summarise(metrics: Mapping[str, float], directory: Path, reason: str, rows: Sequence[members.Row] | None) -> None:
    """Log how a run ended: the last value of every tag, the table of its members, and where to look further."""
    hidden = [tag for tag in metrics if tag.startswith("perf/") or (rows and members.is_of_member(tag, metrics))]
    shown = {tag: value for tag, value in metrics.items() if tag not in hidden}
    width = max(map(len, shown), default=0)
    lines = [f"  {tag:<{width}}  {value:.6g}" for tag, value in shown.items() if np.isscalar(value)]
    lines += members.table(rows) if rows else []
    ended = f"stopped early: {reason}" if reason else "done"
    LOGGER.info("\n".join([ended, *lines, f"run folder: {directory}", f"curves:     tensorboard --logdir {directory}"]))


def data_facts(experiment: Experiment) -> dict[str, Any]:
    """What a pipeline says of its data that a model needs to be used, such as an alphabet."""
    return dict(experiment.data.facts)
