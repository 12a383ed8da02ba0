"""A trained model as two lasting files: its arrays as safetensors, and the recipe from which it is built again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from framework.api import PyTree, View
from framework.checkpoints import safetensors
from framework.checkpoints.snapshot import as_asked, as_stored
from framework.config.safe_load import load_json
from framework.errors import MismatchError, StorageError, writing
from framework.records.record import RunRecord
from framework.trees import data_by_path, leaves_by_path

if TYPE_CHECKING:
    from framework.trained.model_function import Trained

RECIPE, ARRAYS = "recipe.json", "model.safetensors"

TAKEN = ("name", "id", "data", "facts", "inputs", "input_dtypes", "batch", "versions", "plugins", "seed")
"""Fields of a run's record that a recipe has too."""


def is_exported(folder: Path) -> bool:
    """Tell a folder of an exported model from that of a run."""
    return (folder / RECIPE).is_file()


def write(model: Trained, folder: Path) -> None:
    """Write the arrays of a trained model, and a recipe, from which `framework.load(folder)` builds it again.

    Args:
      folder: an existing one.

    Raises: StorageError if a file cannot be written.
    """
    record, parts = model.record(), _named(View(model.params, model.model_state, model.task_state))
    arrays = {path: np.asarray(leaf) for path, leaf in data_by_path(parts).items()}
    safetensors.write(folder / ARRAYS, arrays, {"framework": str(record.versions.get("framework", ""))})
    recipe = {
        "about": f"framework.load(FOLDER) builds the model that this describes, with the arrays of {ARRAYS}",
        **{name: getattr(record, name) for name in TAKEN},
        "config": dict(model.config),
        "step": model.step,
        "sha256": digest(folder / ARRAYS),
    }
    with writing(folder / RECIPE):
        (folder / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")


def read_recipe(folder: Path) -> tuple[RunRecord, int]:
    """Read a recipe as the record of a run, with the step of the model.

    Raises: StorageError if it is damaged.
    """
    try:
        found = load_json(folder / RECIPE)
        record = RunRecord(directory=folder, **{name: found[name] for name in (*TAKEN, "config")})
        if found["sha256"] != digest(folder / ARRAYS):
            raise ValueError(f"the bytes of {ARRAYS} are not those that were exported")
        return record, int(found["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder} is not an exported model: {error}.") from error


def read_arrays(folder: Path, like: View) -> View:
    """Read the parameters and states of a model into trees of the same shapes.

    Args:
      like: trees with `jax.ShapeDtypeStruct` leaves.

    Raises: MismatchError naming the arrays that are missing or have another shape; StorageError if they are damaged.
    """
    found, leaves = safetensors.read(folder / ARRAYS), leaves_by_path(_named(like))
    wanted = {path: as_stored(leaf) for path, leaf in leaves.items()}
    for path, leaf in wanted.items():
        if path not in found or (found[path].shape, found[path].dtype) != (leaf.shape, leaf.dtype):
            text = f"{found[path].dtype}{list(found[path].shape)}" if path in found else "no such array"
            wanted_text = f"expected '{path}' {leaf.dtype}{list(leaf.shape)}, found {text}"
            raise MismatchError(f"{folder / ARRAYS}: {wanted_text}; the model's plugin has changed since the export.")
    arrays = [as_asked(found[path], leaf) for path, leaf in leaves.items()]
    return View(**jax.tree.unflatten(jax.tree.structure(_named(like)), arrays))


def _named(view: View) -> dict[str, PyTree]:
    return {"params": view.params, "model_state": view.model_state, "task_state": view.task_state}


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
