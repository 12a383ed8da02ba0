"""Short runs on arrays, and what they logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import framework


class Logged(NamedTuple):
    """A finished run: what it logged by step, and the model as a user loads it."""

    directory: Path
    records: list[dict[str, Any]]

    def last(self, tag: str) -> float:
        """The last value of a tag."""
        return [record[tag] for record in self.records if tag in record][-1]

    def series(self, tag: str) -> list[float]:
        """All values of a tag, in order."""
        return [record[tag] for record in self.records if tag in record]

    def model(self, **options: Any) -> Any:
        """The model of the newest checkpoint."""
        return framework.load(self.directory, **options)


def save(folder: Path, name: str, **arrays: Any) -> Path:
    """Write arrays as an .npz file."""
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path


def train(directory: Path, *overrides: str) -> Logged:
    """Run, logging every step, without a terminal's progress."""
    framework.run(["callbacks=[checkpoint]", "train.log_every=1", *overrides, f"run.dir={directory}"])
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return Logged(directory, [json.loads(line) for line in lines])
