"""The arrays that a run begins with: of an earlier run, of an exported model, or of a file from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.checkpoints import safetensors
from framework.config.settings import InitFrom
from framework.errors import ConfigError, StorageError, told
from framework.tasks.starting import STATE, Start
from framework.trained.exported import digest
from framework.trained.trained_model import load
from framework.trees import data_by_path

FILES = (".safetensors", ".npz")


def start_of(options: InitFrom | None) -> Start | None:
    """Read what the section `init_from` names; None without one.

    Raises: StorageError if it cannot be read; ConfigError if it is nothing of the kind, or has several
      members.
    """
    if options is None:
        return None
    path = Path(options.source).expanduser()
    if path.is_file():
        if path.suffix not in FILES:
            text = f"{path} has the ending '{path.suffix}', expected a run folder, or a file {' or '.join(FILES)}."
            raise ConfigError(text, key="init_from")
        arrays = safetensors.read(path) if path.suffix == ".safetensors" else _archive(path)
        return Start(_named(arrays), options, {"file": str(path), "sha256": digest(path)})
    model = load(str(path))
    if rows := model.record().members:
        text = (
            f"{model.directory} trained {len(rows)} members; `framework export {path} --member K --to FOLDER` takes one"
        )
        raise ConfigError(f"{text}, and init_from=FOLDER begins with it.", key="init_from")
    parts = {"params": model.params, "model_state": model.model_state}
    arrays = {name: np.asarray(leaf) for name, leaf in data_by_path(parts).items()}
    facts = {"run": str(model.directory), "id": model.record().id, "step": model.step}
    return Start(_named(arrays), options, facts, model.facts)


def _archive(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise StorageError(f"{path} cannot be read: {told(error)}.") from error


def _named(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arrays of a model of ours as the parameter table does; those of other files keep their names."""
    parts = ("params/", STATE, "task_state/")
    if not all(name.startswith(parts) for name in arrays):
        return dict(arrays)
    kept = {name: array for name, array in arrays.items() if not name.startswith("task_state/")}
    return {name.removeprefix("params/"): array for name, array in kept.items()}
