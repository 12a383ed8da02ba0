"""A trained model as a function: at the end of a run, or read back from its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from framework.api import Model, PyTree, Shape
from framework.checkpoints.checkpoint import read_newest, restore_state
from framework.checkpoints.folder import steps
from framework.config import policy
from framework.ensembles import members
from framework.errors import ConfigError, StorageError, blaming
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.runs.inputs import checked_inputs, described, expected_inputs
from framework.runs.logs import LOGGER
from framework.runs.record import RunRecord, read_record
from framework.tasks.ema import from_checkpoint, in_checkpoint
from framework.tasks.precision import in_precision
from framework.tasks.rng import root_key
from framework.tasks.supervised import predictor


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A trained model. Calling it maps inputs [B, ...] to outputs; `preprocess` makes them from raw inputs.

    Attributes:
      model: the pair of pure functions.
      params: its parameters.
      model_state: its state, such as running averages.
      config: of the run, resolved.
      facts: of its data, as users of the model need them, such as its preprocessor, the names of its classes, or which
        characters integers stand for.
      inputs: shape and dtype of each leaf of its inputs.
      directory: the run folder.
    """

    model: Model
    params: PyTree
    model_state: PyTree
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    inputs: PyTree
    directory: Path

    def __call__(self, inputs: PyTree) -> PyTree:
        """Apply the model in evaluation mode; compiled once for each size of the batch.

        Raises: ConfigError if inputs have another shape or dtype than in training, such as bytes for floats.
        """
        return self._predict(self._checked(inputs))

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
    def _predict(self) -> Callable[[PyTree], PyTree]:
        return predictor(self.model, self.params, self.model_state)

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
        name, inputs = self.config["model"]["name"], described(self.inputs)
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
    if record.inputs is None or not isinstance(record.config.get("model"), Mapping):
        raise StorageError(f"{directory} is not a run folder: its run.json names no inputs or no model.")
    policy.check_content(record.config)
    saved = _saved(directory, step)
    rows = record.members or []
    if not 0 <= member < max(len(rows), 1):
        raise StorageError(f"{directory} holds {max(len(rows), 1)} members, counted from 0; there is no {member}.")
    config = members.recorded(record.config, rows[member]) if rows else record.config
    built: Model = Builder(discover()).named("models", config["model"], "model")
    model = in_precision(built, config.get("precision", "float32"))
    inputs = expected_inputs(record.inputs, record.input_dtypes)
    shapes = jax.tree.map(lambda leaf: leaf.shape, inputs)
    found = _read(record, saved, _like(model, shapes, record))
    found = members.part_of(found, member) if rows else found
    return Trained(model, from_checkpoint(found), found["model_state"], config, record.facts, inputs, directory)


def _saved(directory: Path, step: int | None) -> list[int]:
    """Return the steps to read from, oldest first. Raises: StorageError if there is none."""
    saved = steps(directory / "checkpoints")
    if not saved or (step is not None and step not in saved):
        raise StorageError(
            f"{directory} holds no checkpoint{'' if step is None else f' of step {step}'}; found {saved}."
        )
    return saved if step is None else [step]


def _like(model: Model, inputs: Shape, record: RunRecord) -> dict[str, Any]:
    """Return shapes of the part of a saved state that a model needs, of all members side by side."""
    _, params, model_state = jax.eval_shape(lambda key: model.init(key, inputs)[0:3], root_key(0))
    averaged = record.config.get("ema") is not None
    like = {"step": jax.ShapeDtypeStruct((), "int32"), "model_state": model_state, **in_checkpoint(params, averaged)}
    if record.members:
        axis = len(record.members)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((axis, *leaf.shape), leaf.dtype), like)
    return like


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
