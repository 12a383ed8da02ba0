"""A step to be replayed, on one device: that of a capsule, or one of a sound run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Batch, TrainState
from framework.checkpoints.folder import steps
from framework.config.compose import recorded
from framework.ensembles.members import rows as member_rows
from framework.errors import ConfigError
from framework.experiment import Experiment, build
from framework.records import capsule
from framework.records.record import read_record
from framework.registry.entry_points import discover
from framework.training.recorder import batch_of

AXIS = "batch"

NO_FAULT = "no fault"
"""The finding of a run that met none."""

Step = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Any]]]


class Case(NamedTuple):
    """One step, and what goes into it.

    Attributes:
      folder: of the capsule.
      facts: of the capsule.
      experiment: built for one device.
      step: `step(state, batch) -> (state, means)`; of several devices it is mapped over the parts of the batch, so that
        noise is that of each device.
      state: from before the step.
      batch: arrays [B, ...].
      rows: the indices of the batch's examples in the data; None where they are not known.
      devices: parts that the batch is cut into.
    """

    folder: Path
    facts: capsule.Facts
    experiment: Experiment
    step: Step
    state: TrainState
    batch: Batch
    rows: np.ndarray | None
    devices: int

    @property
    def size(self) -> int:
        """Number of examples in the batch."""
        return int(jax.tree.leaves(self.batch)[0].shape[0])

    def name_of(self, place: int) -> str:
        """Name an example by its place in the batch, and by its index in the data where that is known."""
        return f"{place}" if self.rows is None else f"{place} (index {int(self.rows[place])} in the data)"


def opened(path: Path, words: Sequence[str] = ()) -> Case:
    """Open a capsule, or the first one of a run; of a run without one, the step after its newest checkpoint.

    Args:
      path: of the capsule or the run.
      words: overrides of the recorded config, such as `precision=float32`.

    Raises: FrameworkError, as building the experiment does; StorageError if there is neither, or it is damaged.
    """
    if is_sound := not capsule.has_one(path) and bool(steps(path / "checkpoints")):
        folder, facts = path, _facts_of_run(path)
    else:
        folder = capsule.find(path)
        facts = capsule.read_facts(folder)
    chosen = [] if any(word.startswith("strategy=") for word in words) else ["strategy=jit"]
    config = recorded(folder, [*chosen, *words])
    if facts.member is not None:
        config = config.with_values(_member(folder, facts.member))
    experiment = build(config, discover())
    state = capsule.read_state(folder, facts, experiment.shapes)
    if is_sound:
        batch, rows = batch_of(experiment.data, experiment.settings.seed, facts.step)
    else:
        batch, rows = capsule.read_batch(folder, experiment.data.spec)
    mapped = experiment.strategy.devices if config.values["strategy"]["name"] == "pmap" else 1
    devices = facts.devices if facts.strategy == "pmap" and chosen else mapped
    batch = jax.tree.map(jnp.asarray, batch)
    return Case(folder, facts, experiment, stepped(experiment, devices), state, batch, rows, devices)


def _facts_of_run(path: Path) -> capsule.Facts:
    """Make up the facts of the step after the newest checkpoint of a run that met no fault."""
    record = read_record(path)
    if record.members:
        raise ConfigError(f"{path} trained {len(record.members)} members, none of which failed; replay a single run.")
    step = steps(path / "checkpoints")[-1] + 1
    strategy = str(record.config["strategy"]["name"])
    return capsule.Facts(step, NO_FAULT, record.id, None, 1, strategy, record.versions, record.numerics, {}, [])


def stepped(experiment: Experiment, devices: int) -> Step:
    """Return the train step, mapped over the parts of a batch where there are several."""
    train_step = experiment.task.train_step
    if devices == 1:
        return lambda state, batch: train_step(state, batch)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Any]]:
        parts = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch)
        mapped = jax.vmap(lambda state, part: train_step(state, part, axis=AXIS), (None, 0), axis_name=AXIS)
        return jax.tree.map(lambda leaf: leaf[0], mapped(state, parts))  # all devices end with the same

    return step


def _member(folder: Path, member: int) -> dict[str, Any]:
    """Return the values by which a member differs from the others."""
    whole = build(recorded(folder), discover())
    assert whole.members is not None
    return member_rows(whole.members)[member]["values"]
