"""An evaluation that was stopped, as a file in the run folder, from which the same command goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import writing
from framework.records.record import fingerprint
from framework.steps.metrics import Collected, Sums, WeightedMean
from framework.trained.evaluated import Evaluation, Subject

FOLDER = "evaluations"


def is_there(subject: Subject) -> bool:
    """Tell whether any evaluation of a run was stopped."""
    return any((subject.place.directory / FOLDER).glob("*.npz"))


def path_of(subject: Subject, split: str, words: Sequence[str], with_values: bool) -> Path:
    """Return the file of an evaluation: it is named by all that decides its numbers, so that no other one goes on.

    Args:
      words: overrides of the recorded config.
      with_values: values of each example are kept.

    Raises: PluginError if the data cannot describe themselves.
    """
    facts = {"run": subject.record.id, "step": subject.place.step, "member": subject.member, "split": split}
    facts |= {"words": list(words), "values": with_values, "data": fingerprint(subject.experiment)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return subject.place.directory / FOLDER / f"{digest[:16]}.npz"


def save(path: Path, found: Evaluation) -> None:
    """Write what was found so far, whole or not at all.

    Raises: StorageError if it cannot be written.
    """
    arrays = {"batches": np.asarray(found.batches), "examples": np.asarray(found.examples)}
    for name, mean in found.sums.means().items():
        kind = "collected" if isinstance(mean, Collected) else "sum"
        arrays |= {f"{kind}/total/{name}": np.asarray(mean.total), f"{kind}/count/{name}": np.asarray(mean.count)}
    arrays |= {f"value/{name}": np.concatenate(parts) for name, parts in found.values.items()}
    partial = path.with_suffix(".partial")
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        partial.replace(path)


def read(path: Path) -> Evaluation | None:
    """Read what was found before; None if there is nothing that can be read."""
    sums, values = Sums(), {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                kind, _, name = key.partition("/")
                if kind == "value":
                    values[name] = [file[key]]
                elif name.startswith("total/"):
                    make: Any = Collected if kind == "collected" else WeightedMean
                    tag = name.removeprefix("total/")
                    sums.add({tag: make(file[key], file[f"{kind}/count/{tag}"])})
            return Evaluation(sums, values, int(file["batches"]), int(file["examples"]))
    except (OSError, ValueError, KeyError):
        return None
