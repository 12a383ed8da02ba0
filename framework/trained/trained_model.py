"""A trained model, read back from the folder of its run, or from an exported one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Model, PyTree, Shape, Task, TrainState, View
from framework.config import policy
from framework.ensembles import members
from framework.errors import ConfigError, StorageError, nearest
from framework.records.record import RunRecord, read_record
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.steps.rng import root_key
from framework.tasks.assembly import models_of, trained_task_of
from framework.tasks.ema import from_checkpoint
from framework.trained import exported
from framework.trained.inputs import expected_inputs
from framework.trained.model_function import Trained
from framework.trained.places import Member, Place, member_of, place_of
from framework.trained.saved import part_for_model, read_part, saved_steps


def load(path: str | Path, step: int | None = None, member: Member = 0, averaged: bool = True) -> Trained:
    """Read a trained model back from its run folder; the data it was trained on are not needed.

    Args:
      path: the run folder. RUN@500 names the checkpoint of a step, and RUN@best the one whose evaluation was best: by
        `callbacks.checkpoint.best`, or else by the lowest eval/loss.
      step: of the checkpoint to read. None takes the newest that is not damaged.
      member: the one to take, of a run that trained several; "best" is the one whose last evaluation was best.
      averaged: take the moving average of the parameters, where the run kept one, as its evaluations did.

    Raises: StorageError if the folder holds no run, or no such checkpoint or member, or the checkpoint is damaged;
      ConfigError or PluginError if the model's plugin is missing or has other options.
    """
    place = place_of(path, member) if step is None else Place(Path(path), step)
    if exported.is_exported(place.directory):
        found = _exported(place.directory)
        if place.step not in (None, found.step) or member not in (0, "best"):
            raise StorageError(f"{place.directory} is an exported model, of step {found.step} and of one member alone.")
        return found
    record = read_record(place.directory)
    if record.inputs is None or not isinstance(record.config.get("model", record.config["task"]), Mapping):
        raise StorageError(f"{place.directory} is not a run folder: its run.json names no inputs or no model.")
    policy.check_content(record.config)
    saved = saved_steps(place.directory, place.step)
    number, rows = member_of(record, member), record.members or []
    config = members.recorded(record.config, rows[number]) if rows else record.config
    task, state = _built(record, config)
    is_averaged = averaged and record.config.get("ema") is not None
    found = read_part(record, saved, part_for_model(state, len(rows), is_averaged))
    found = members.part_of(found, number) if rows else found
    parts = from_checkpoint(found), found["model_state"], found.get("task_state", ())
    inputs = expected_inputs(record.inputs, record.input_dtypes)
    return Trained(task, *parts, config, record.facts, inputs, place.directory, int(found["step"]))


def _exported(folder: Path) -> Trained:
    """Build an exported model again, from its recipe and its arrays."""
    record, step = exported.read_recipe(folder)
    policy.check_content(record.config)
    task, state = _built(record, record.config)
    parts = exported.read_arrays(folder, View(state.params, state.model_state, state.task_state))
    inputs = expected_inputs(record.inputs, record.input_dtypes)
    return Trained(task, *parts, record.config, record.facts, inputs, folder, step)


def _built(record: RunRecord, config: Mapping[str, Any]) -> tuple[Task, TrainState]:
    """Build the task of a recorded config, and the shapes of its state."""
    task = trained_task_of(Builder(discover()), config)
    return task, jax.eval_shape(lambda: task.init(root_key(0), _batch(record)))


def trained(run: Path, name: str = "model", step: int | None = None) -> Model:
    """Model of a run that was trained before, with the parameters that it ended with.

    It stands for a teacher, or for the start of a further training. The parameters are copied to the train state, and
    so to every checkpoint.

    Args:
      run: its run folder.
      name: of the model, where the task of that run has several, such as generator.
      step: of the checkpoint; null takes the newest that is sound.

    Raises: ConfigError if the run has no model of that name; StorageError if it cannot be read.
    """
    with jax.ensure_compile_time_eval():  # a task of members is built while their step is traced
        found = load(run, step)
    if name not in found.task.models:
        raise ConfigError(f"the run has no model '{name}'.{nearest(name, found.task.models)}", key="name")
    model = found.task.models[name]
    params, state = (models_of(parts, found.task.models)[name] for parts in (found.params, found.model_state))

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        out_shape, made, _ = model.init(key, in_shape)
        if list(map(jnp.shape, jax.tree.leaves(made))) != list(map(jnp.shape, jax.tree.leaves(params))):
            raise ConfigError(f"the model of {run} was trained on inputs of another shape than {in_shape}.")
        return out_shape, *jax.tree.map(jnp.array, (params, state))

    return Model(init, model.apply)


def _batch(record: RunRecord) -> Batch:
    """Return the spec of the batches that a run was trained on; of an older run, of its inputs alone."""

    def leaves(node: Any) -> PyTree:
        if isinstance(node, dict):
            return {name: leaves(part) for name, part in node.items()}
        if node and isinstance(node[0], str):
            return jax.ShapeDtypeStruct(tuple(node[1]), node[0])
        return tuple(map(leaves, node))

    if record.batch is not None:
        return leaves(record.batch)
    inputs = expected_inputs(record.inputs, record.input_dtypes)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype or "float32"), inputs)
    return {"inputs": one}
