"""A trained model as a function: at the end of a run, or read back from its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Model, PyTree, Shape, Task, View, stream
from framework.checkpoints.checkpoint import read_newest, restore_state
from framework.checkpoints.folder import steps
from framework.config import policy
from framework.ensembles import members
from framework.errors import ConfigError, StorageError, blaming, nearest
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.runs.inputs import checked_inputs, described, expected_inputs
from framework.runs.logs import LOGGER
from framework.runs.record import RunRecord, read_record
from framework.steps.rng import root_key
from framework.tasks.assembly import models_of, trained_task_of
from framework.tasks.ema import from_checkpoint, in_checkpoint


@dataclass(frozen=True)
class Part:
    """One of several trained models, as a function of its inputs [B, ...] in evaluation mode.

    Attributes:
      model: the pair of pure functions.
      params: its parameters.
      state: its state, such as running averages.
    """

    model: Model
    params: PyTree
    state: PyTree

    def __call__(self, inputs: PyTree) -> PyTree:
        """Apply the model; compiled once for each shape of the inputs."""
        return self._apply(inputs)

    @cached_property
    def _apply(self) -> Callable[[PyTree], PyTree]:
        return jax.jit(lambda inputs: self.model.apply(self.params, self.state, inputs, key=None, train=False)[0])


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A trained model. Calling it maps inputs [B, ...] to outputs; `preprocess` makes them from raw inputs.

    Of a task with several models each is an attribute by its section's name: `trained.generator(noise)`.

    Attributes:
      task: says what a call computes, and which models there are.
      params: the parameters: of the one model, or by the names of several.
      model_state: the state of the models, such as running averages, likewise.
      task_state: what the task keeps beside, such as a teacher.
      config: of the run, resolved.
      facts: of its data, as users of the model need them, such as its preprocessor, the names of its classes, or which
        characters integers stand for.
      inputs: shape and dtype of each leaf of its inputs.
      directory: the run folder.
    """

    task: Task
    params: PyTree
    model_state: PyTree
    task_state: PyTree
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    inputs: PyTree
    directory: Path

    def __call__(self, inputs: PyTree, seed: int | None = None) -> PyTree:
        """Compute what the task predicts: of a supervised model, its outputs. Compiled once for each size of the batch.

        Args:
          inputs: [B, ...].
          seed: of the random numbers, where a task draws some.

        Raises: ConfigError if inputs have another shape or dtype than in training, such as bytes for floats, or the
          task predicts nothing.
        """
        if self.task.predict is None:
            name, models = self.config["task"]["name"], ", ".join(self.task.models)
            raise ConfigError(f"task '{name}' predicts nothing by itself; call one of its models: {models}.")
        return self._predict(self._checked(inputs), None if seed is None else stream(root_key(seed), "predict"))

    @property
    def model(self) -> Model:
        """The pair of pure functions of the section `model`."""
        return self.task.models["model"]

    def __getattr__(self, name: str) -> Part:
        models = self.__dict__["task"].models if "task" in self.__dict__ else {}
        if name.startswith("_") or name not in models:
            raise AttributeError(f"there is no '{name}'; its models are {', '.join(models)}.")
        params, states = (models_of(parts, models)[name] for parts in (self.params, self.model_state))
        return Part(models[name], params, states)

    def preprocess(self, raw: Any) -> PyTree:
        """Turn raw inputs, such as images of bytes, texts or rows of a table, into inputs, just as training did.

        `framework plugins preprocessors NAME` says what `facts["preprocess"]["name"]` takes.

        Raises: ConfigError if the run names no preprocessor, or raw inputs are not what it takes; PluginError if it is
          not installed, or fails.
        """
        if not isinstance(self.facts.get("preprocess"), Mapping):
            source = self.config.get("data", {}).get("name")
            raise ConfigError(
                f"the data '{source}' name no preprocessor; give the model {described(self.inputs)} itself."
            )
        title, preprocess = self._preprocessor
        with blaming(f"{title} failed on raw inputs"):
            inputs = preprocess(raw)
        return self._checked(inputs)

    @cached_property
    def _predict(self) -> Callable[[PyTree, Array | None], PyTree]:
        view, predict = View(self.params, self.model_state, self.task_state), self.task.predict
        assert predict is not None
        return jax.jit(lambda inputs, key: predict(view, inputs, key))

    @cached_property
    def _preprocessor(self) -> tuple[str, Callable[[Any], PyTree]]:
        builder, key = Builder(discover()), "facts.preprocess"
        built = builder.named("preprocessors", self.facts["preprocess"], key)
        return builder.used[key].title, built

    def _checked(self, inputs: PyTree) -> PyTree:
        named = isinstance(self.facts.get("preprocess"), Mapping)
        return checked_inputs(inputs, self.inputs, "; model.preprocess(raw) makes them of raw inputs" if named else "")

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        name, inputs = self.config.get("model", self.config["task"])["name"], described(self.inputs)
        return f"Trained({name}: inputs {inputs}, {size:,} parameters, {self.directory})"


def load(path: str | Path, step: int | None = None, member: int = 0) -> Trained:
    """Read a trained model back from its run folder; the data it was trained on are not needed.

    Args:
      path: the run folder.
      step: of the checkpoint to read. None takes the newest that is not damaged.
      member: the one to take, of a run that trained several.

    Raises: StorageError if the folder holds no run, or no such checkpoint or member, or the checkpoint is damaged;
      ConfigError or PluginError if the model's plugin is missing or has other options.
    """
    directory = Path(path)
    record = read_record(directory)
    if record.inputs is None or not isinstance(record.config.get("model", record.config["task"]), Mapping):
        raise StorageError(f"{directory} is not a run folder: its run.json names no inputs or no model.")
    policy.check_content(record.config)
    saved = _saved(directory, step)
    rows = record.members or []
    if not 0 <= member < max(len(rows), 1):
        raise StorageError(f"{directory} holds {max(len(rows), 1)} members, counted from 0; there is no {member}.")
    config = members.recorded(record.config, rows[member]) if rows else record.config
    task = trained_task_of(Builder(discover()), config)
    found = _read(record, saved, _like(task, record))
    found = members.part_of(found, member) if rows else found
    inputs, task_state = expected_inputs(record.inputs, record.input_dtypes), found.get("task_state", ())
    params = from_checkpoint(found)
    return Trained(task, params, found["model_state"], task_state, config, record.facts, inputs, directory)


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


def _saved(directory: Path, step: int | None) -> list[int]:
    """Return the steps to read from, oldest first. Raises: StorageError if there is none."""
    saved = steps(directory / "checkpoints")
    if not saved or (step is not None and step not in saved):
        raise StorageError(
            f"{directory} holds no checkpoint{'' if step is None else f' of step {step}'}; found {saved}."
        )
    return saved if step is None else [step]


def _like(task: Task, record: RunRecord) -> dict[str, Any]:
    """Return shapes of the part of a saved state that a trained model needs, of all members side by side."""
    state = jax.eval_shape(lambda key: task.init(key, _batch(record)), root_key(0))
    averaged = record.config.get("ema") is not None
    like = {"step": state.step, "model_state": state.model_state, **in_checkpoint(state.params, averaged)}
    if jax.tree.leaves(state.task_state):
        like["task_state"] = state.task_state
    if record.members:
        axis = len(record.members)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((axis, *leaf.shape), leaf.dtype), like)
    return like


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


def _read(record: RunRecord, saved: list[int], like: dict[str, Any]) -> dict[str, Any]:
    """Read the newest checkpoint that is not damaged. Raises: StorageError if all are."""
    errors: list[StorageError] = []

    def reject(step: int, error: StorageError) -> None:
        errors.append(error)
        if step != saved[0]:
            LOGGER.warning(f"{error} An older one is tried.")

    folder = record.directory / "checkpoints"
    found = read_newest(saved, lambda step: restore_state(folder, step, like, run=record.id), reject)
    if found is None:
        raise errors[0]
    return found
