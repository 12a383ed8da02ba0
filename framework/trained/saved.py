"""The part of a saved state that a trained model needs, read from the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from framework.api import TrainState
from framework.checkpoints.checkpoint import read_newest, restore_state
from framework.checkpoints.folder import steps
from framework.errors import StorageError
from framework.records.logs import LOGGER
from framework.records.record import RunRecord
from framework.tasks.ema import in_checkpoint


def part_for_model(state: TrainState, members: int, is_averaged: bool) -> dict[str, Any]:
    """Arrange shapes of a member's state as the saved part that its trained model needs.

    Args:
      state: with `jax.ShapeDtypeStruct` leaves.
      members: number of members that were saved side by side; 0 for a single run.
      is_averaged: take the moving average of the parameters, which the run kept.
    """
    like = {"step": state.step, "model_state": state.model_state, **in_checkpoint(state.params, is_averaged)}
    if jax.tree.leaves(state.task_state):
        like["task_state"] = state.task_state
    if members:
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype), like)
    return like


def saved_steps(directory: Path, step: int | None) -> list[int]:
    """Return the steps to read from, oldest first.

    Raises: StorageError if there is none.
    """
    saved = steps(directory / "checkpoints")
    if not saved or (step is not None and step not in saved):
        raise StorageError(
            f"{directory} holds no checkpoint{'' if step is None else f' of step {step}'}; found {saved}."
        )
    return saved if step is None else [step]


def read_part(record: RunRecord, saved: list[int], like: dict[str, Any]) -> dict[str, Any]:
    """Read the newest checkpoint that is not damaged.

    Raises: StorageError if all are; AccessError if one cannot be read for a reason outside of it.
    """
    errors: list[StorageError] = []

    def reject(step: int, error: StorageError) -> None:
        errors.append(error)
        if step != saved[0]:
            LOGGER.warning(f"{error} An older one is tried.")

    folder = record.directory / "checkpoints"
    found = read_newest(saved, lambda step: restore_state(folder, step, like, run=record.id), reject)
    if found is None:
        others = [step for step in steps(folder) if step not in saved]
        fix = f"; take another step: {', '.join(map(str, others))}" if others else "; there is no other"
        raise StorageError(f"{str(errors[0]).rstrip('.')}{fix}.") from errors[0]
    return found
