"""Capsules: all that the first step which is not finite was made of, in `RUN/nan/step-<k>`, for `framework replay`.

A capsule holds no code and no pickle. It has two parts of a run folder, `config.yaml` and `checkpoints/<k - 1>`, with
`batch.npz` and `capsule.json` beside them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import Batch, PyTree, TrainState
from framework.checkpoints.checkpoint import commit, restore
from framework.checkpoints.folder import put_in_place
from framework.checkpoints.snapshot import snapshot
from framework.config.safe_load import load_json
from framework.console.output import shell_word
from framework.distributed import coordination, processes
from framework.errors import FrameworkError, StorageError, writing
from framework.experiment import Experiment
from framework.records.logs import LOGGER
from framework.records.neighbours import refusal
from framework.records.record import RunRecord, write_config
from framework.training.recorder import Fault
from framework.trees import leaves_by_path

FOLDER = "nan"

NAMED = re.compile(r"step-([1-9][0-9]{0,17})")

ROWS = "rows"
"""The name of the examples' indices in `batch.npz`, beside the leaves of the batch under "batch/"."""


class Facts(NamedTuple):
    """The content of `capsule.json`.

    Attributes:
      step: the one that is not finite, counted from 1; the state is that from before it.
      what: what was found, such as "train/loss is nan".
      run: id of the run.
      member: of several, the one that failed.
      devices: parts that a batch was cut into.
      strategy: name of the strategy.
      versions: of packages.
      numerics: settings of JAX and XLA that change bits.
      metrics: the last value of every tag.
      trail: step, loss, and the norms of the update and of the parameters, of some steps up to this one.
    """

    step: int
    what: str
    run: str
    member: int | None
    devices: int
    strategy: str
    versions: Mapping[str, Any]
    numerics: Mapping[str, Any]
    metrics: Mapping[str, float]
    trail: list[dict[str, float]]


def keep(experiment: Experiment, record: RunRecord, fault: Fault, metrics: Mapping[str, float]) -> str | None:
    """Write the capsule of a fault, in process 0.

    Returns: advice on how to look at it; None if it cannot be written, which is a warning.
    """
    state = coordination.addressable(fault.state)
    if processes.index() == 0:
        try:
            write(experiment, record, fault._replace(state=state), metrics)
        except (FrameworkError, OSError) as error:
            LOGGER.warning(f"the step that is not finite cannot be kept: {error}")
            return None
    kept = place_of(record.directory, fault.step)
    # A run folder stands for its first capsule.
    is_first = not has_one(record.directory) or find(record.directory) == kept
    place = shell_word(record.directory if is_first else kept)
    return f"`framework replay {place}` finds the layer, the operation and the examples in step {fault.step}"


def write(experiment: Experiment, record: RunRecord, fault: Fault, metrics: Mapping[str, float]) -> Path:
    """Write a capsule, whole or not at all.

    Raises: StorageError.
    """
    target = place_of(record.directory, fault.step)
    partial = target.with_name(f".{target.name}.partial")
    facts = Facts(
        fault.step,
        fault.what,
        record.id,
        fault.member,
        experiment.strategy.devices,
        str(experiment.config["strategy"]["name"]),
        record.versions,
        record.numerics,
        {tag: value for tag, value in metrics.items() if not tag.startswith("perf/")},
        fault.trail,
    )
    with writing(target):
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "checkpoints").mkdir(parents=True)
        write_config(partial, experiment.source)
        commit(partial / "checkpoints", fault.step - 1, snapshot(fault.state), about={"run": record.id})
        arrays = {f"batch/{path}": leaf for path, leaf in leaves_by_path(fault.batch).items()}
        arrays |= {} if fault.rows is None else {ROWS: fault.rows}
        with (partial / "batch.npz").open("wb") as file:
            np.savez(file, **arrays)
        (partial / "capsule.json").write_text(json.dumps(facts._asdict(), indent=2) + "\n")
        put_in_place(partial, target)
    return target


def place_of(directory: Path, step: int) -> Path:
    """Return the place of a step's capsule in a run folder."""
    return directory / FOLDER / f"step-{step}"


def has_one(path: Path) -> bool:
    """Tell whether a folder is a capsule, or a run that has one."""
    return (path / "capsule.json").is_file() or any((path / FOLDER).glob("step-*"))


def find(path: Path) -> Path:
    """Return a capsule: the folder itself, or that of the first step in a run folder.

    Raises: StorageError if there is none.
    """
    if (path / "capsule.json").is_file():
        return path
    if not path.is_dir():
        raise refusal(path)
    found = {int(name[1]): each for each in (path / FOLDER).glob("step-*") if (name := NAMED.fullmatch(each.name))}
    if not found:
        text = "expected a run that met a number that is not finite, or a folder RUN/nan/step-7"
        raise StorageError(f"{path} holds no capsule: {text}.")
    return found[min(found)]


def read_facts(capsule: Path) -> Facts:
    """Read `capsule.json`. Raises: StorageError."""
    try:
        found = load_json(capsule / "capsule.json")
        return Facts(**{name: found[name] for name in Facts._fields})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{capsule} cannot be read: its capsule.json: {error}.") from error


def read_state(capsule: Path, facts: Facts, like: TrainState) -> TrainState:
    """Read the state from before the step. Raises: StorageError, MismatchError."""
    return restore(capsule / "checkpoints" / str(facts.step - 1), like, whole=True, run=facts.run)


def read_batch(capsule: Path, spec: PyTree) -> tuple[Batch, np.ndarray | None]:
    """Read the batch, with the dtypes of the data's spec, and the indices of its examples, if they are known.

    Raises: StorageError.
    """
    try:
        with np.load(capsule / "batch.npz", allow_pickle=False) as file:
            leaves = {path: file[f"batch/{path}"] for path in leaves_by_path(spec)}
            rows = file.get(ROWS)
    except Exception as error:  # damaged archives raise errors of zipfile, struct and zlib too
        raise StorageError(f"{capsule} cannot be read: its batch.npz: {error}.") from error
    likes = leaves_by_path(spec)
    # NumPy's files do not know bfloat16 and its kin, and give bytes.
    typed = [leaf.view(likes[path].dtype) if leaf.dtype.kind == "V" else leaf for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(spec), typed), rows
