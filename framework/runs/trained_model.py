"""A finished run, back as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from framework.api import Model, PyTree
from framework.checkpoints import checkpoint
from framework.checkpoints.folder import steps
from framework.config import policy
from framework.ensembles import members
from framework.errors import StorageError
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.runs import resume
from framework.tasks.ema import from_checkpoint, in_checkpoint
from framework.tasks.precision import in_precision
from framework.tasks.rng import root_key
from framework.tasks.supervised import predictor


class Trained(NamedTuple):
    """A trained model; calling it maps inputs [B, ...] to outputs.

    Attributes:
      config: of the run, resolved.
      facts: what its data had to say for those who use the model, such as which characters integers stand for.
    """

    model: Model
    params: PyTree
    model_state: PyTree
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    predict: Callable[[PyTree], PyTree]

    def __call__(self, inputs: PyTree) -> PyTree:
        """Apply the model in evaluation mode; compiled once for each shape of inputs."""
        return self.predict(inputs)


def load(path: str | Path, step: int | None = None, member: int = 0) -> Trained:
    """Read a trained model back from its run folder; the data it was trained on are not needed.

    Args:
      path: the run folder.
      step: which checkpoint; null takes the newest.
      member: which one, of a run that trained several.

    Raises: StorageError if the folder holds no run, or no such checkpoint or member; ConfigError or PluginError if the
      model's plugin is missing or has other options.
    """
    directory = Path(path)
    entry = resume.read(directory).entry
    inputs, config = entry.get("inputs"), entry["config"]
    if inputs is None or not isinstance(config.get("model"), Mapping):
        raise StorageError(f"{directory} is not a run folder: its run.json names no inputs or no model.")
    policy.check_content(config)
    saved = steps(directory / "checkpoints")
    if not saved or (step is not None and step not in saved):
        raise StorageError(
            f"{directory} holds no checkpoint{'' if step is None else f' of step {step}'}; found {saved}."
        )
    rows = entry.get("members") or []
    if not 0 <= member < max(len(rows), 1):
        raise StorageError(f"{directory} holds {max(len(rows), 1)} members, counted from 0; there is no {member}.")
    config = members.recorded(config, rows[member]) if rows else config
    built: Model = Builder(discover()).named("models", config["model"], "model")
    model = in_precision(built, config.get("precision", "float32"))
    in_shape = jax.tree.map(tuple, inputs, is_leaf=lambda node: isinstance(node, list))
    _, params, model_state = jax.eval_shape(lambda key: model.init(key, in_shape)[0:3], root_key(0))
    like = {**in_checkpoint(params, config.get("ema") is not None), "model_state": model_state}
    if rows:
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(rows), *leaf.shape), leaf.dtype), like)
    restored = checkpoint.restore(directory / "checkpoints" / str(saved[-1] if step is None else step), like)
    restored = members.part_of(restored, member) if rows else restored
    return trained_model(model, from_checkpoint(restored), restored["model_state"], config, entry.get("facts", {}))


def trained_model(
    model: Model, params: PyTree, model_state: PyTree, config: Mapping[str, Any], facts: Mapping[str, Any]
) -> Trained:
    """Put a model and its parameters together."""
    return Trained(model, params, model_state, config, facts, predictor(model, params, model_state))
