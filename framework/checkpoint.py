"""Checkpoints of a run, as a callback."""

from __future__ import annotations

from framework import store
from framework.api import Callback, Run, TrainState


class Checkpoint(Callback):
    """Saves the whole state under `checkpoints/<step>` of the run folder."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_start(self, run: Run) -> None:
        """Note where to save."""
        self.folder = run.directory / "checkpoints"

    def on_state(self, step: int, state: TrainState) -> None:
        """Save."""
        store.save(self.folder, step, state)


def checkpoint(every: int = 0) -> Callback:
    """Save the state every `every` steps (0: never in between) and at the end, so that the run can be loaded.

    Args:
      every: period in updates; the config takes it from `train.checkpoint_every`.
    """
    return Checkpoint(every)
