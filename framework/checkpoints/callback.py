"""Checkpoints of a run, as a callback: when a state is saved, and which saved ones are kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from framework.api import Callback, Mode, Run, Store, Summary, TrainState, WatchedTag
from framework.checkpoints import checkpoint, folder
from framework.checkpoints.npz import FILES
from framework.checkpoints.snapshot import snapshot
from framework.distributed.coordination import Barrier, addressable, agree
from framework.distributed.processes import count, index
from framework.errors import ConfigError, StorageError, writing
from framework.trees import data_by_path

LOGGER = logging.getLogger("framework")

MOMENT = 0.002
"""Seconds for which a compiled call waits while a save goes on; all of them together take no longer than the save."""

PATIENCE = 5.0
"""Seconds in which other processes may end their part of a save after the run has failed."""


@dataclass(eq=False)
class Checkpoint(Callback):
    """Save the state every `every` steps (0: only at the end) and at the end, to be resumed and loaded.

    Args:
      every: period in updates; the config takes it from `train.checkpoint_every`.
      keep: number of the newest that are kept; 0 keeps all. Three leave a choice should the newest be damaged.
      keep_every: steps that are multiples of it are kept for good; 0 for none.
      keep_best: number of the best that are kept as well, where `best` names a metric.
      best: the tag that decides, such as "eval/loss"; checkpoints of steps that logged it are compared.
      mode: "min" if low values are good, "max" if high ones are, "auto" for what the metric declares.
      asynchronous: train on while a thread digests and writes. This costs a copy of the state in the host's memory. At
        the end, and at a signal, the run waits for the thread. False does all between two steps, without the copy.
      store: writes the arrays. None takes `files`, in half the time of `orbax` and readable by NumPy alone; `orbax`
        keeps arrays that are cut over devices in their pieces.

    Raises: ConfigError if a number is negative, or `best` is of the test split.
    """

    everywhere = True  # each process writes what its devices hold
    saves = True
    every: int = 0
    keep: int = 3
    keep_every: int = 0
    keep_best: int = 1
    best: str | None = None
    mode: Mode = "auto"
    asynchronous: bool = True
    store: Store | None = None

    def __post_init__(self) -> None:
        every, keep, keep_every, keep_best = self.every, self.keep, self.keep_every, self.keep_best
        if min(every, keep, keep_every, keep_best) < 0:
            raise ConfigError(f"{every=}, {keep=}, {keep_every=}, {keep_best=}: expected numbers of at least 0.")
        self.writer = self.store or FILES
        self.watched = None if self.best is None else WatchedTag("best", self.best, self.mode)
        self.scores: dict[int, float] = {}  # the lowest is the best
        self.saving: futures.Future[None] | None = None

    def on_built(self, directions: Mapping[str, bool | None]) -> None:
        """Refuse a tag that the run does not log."""
        if self.watched is not None:
            self.watched.check(directions)

    def on_start(self, run: Run) -> None:
        """Make the folder, delete what a killed process left, and refuse a disk that is too small."""
        self.folder, self.run, self.ended = run.directory / "checkpoints", run, math.inf
        if self.watched is not None:
            self.scores = {step: self.watched.sign * value for step, value in self.watched.start(run)}
        agree(lambda: self._prepare(run))
        self.thread = futures.ThreadPoolExecutor(1, "checkpoint")

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note the metric that decides which step is best."""
        if self.watched is not None and (value := self.watched.value(scalars)) is not None and step > 0:
            self.scores[step] = self.watched.sign * value

    def on_state(self, step: int, state: TrainState) -> None:
        """Save, unless this step is saved already; then delete what is not to be kept.

        Asynchronously, the state is only copied here. There is never more than one copy: a save waits for the last one.
        """
        self.settle(wait=True)
        if not agree(lambda: self._begin(step)):
            return
        state = state if self.writer.everywhere else addressable(state)
        leaves = snapshot(state) if self.asynchronous or count() > 1 else data_by_path(state)
        about = {name: value for name, value in (("run", self.run.id), ("window", self.run.window())) if value}
        self.saving = self.thread.submit(self._save, step, leaves, about, {**self.scores}, Barrier())
        self.settle(wait=not self.asynchronous)

    def settle(self, wait: bool) -> None:
        """Raise in all processes the error of the current save, if it has failed; with `wait`, wait for it first."""
        saving, self.saving = self.saving, None
        if saving is not None and not agree(lambda: self._is_over(saving, wait)):
            self.saving = saving

    def on_end(self, summary: Summary) -> None:
        """Let the current save end. Its error is only logged: if the run has failed, another one is raised."""
        self.ended = time.monotonic()
        self.thread.shutdown()
        if self.saving is not None and (error := self.saving.exception()) is not None:
            folder.discard(self.folder)
            LOGGER.warning(str(error))
        self.saving = None

    def _prepare(self, run: Run) -> None:
        with writing(self.folder):
            self.folder.mkdir(mode=0o770, exist_ok=True)
        folder.discard(self.folder)
        self._delete(self.scores)  # where the run kept more before
        saves = (run.total_steps - run.start_step) // self.every + 1 if self.every else 1
        # Those to be kept (two where all are) and the one being written, without those that are there.
        copies = min(self.keep or 2, saves) + 1 - len(folder.steps(self.folder))
        folder.check_space(self.folder, max(copies, 1), run.state_bytes)

    def _begin(self, step: int) -> bool:
        """Return whether this step is to be saved; if others write too, make the folder before any of them does."""
        if folder.is_saved(self.folder, step):
            self._delete(self.scores)
            return False
        if count() > 1:
            checkpoint.begin(self.folder, step)
        return True

    def _save(
        self,
        step: int,
        leaves: Mapping[str, Any],
        about: Mapping[str, Any],
        scores: Mapping[int, float],
        barrier: Barrier,
    ) -> None:
        if count() == 1:
            checkpoint.commit(self.folder, step, leaves, self.writer, about)
        else:
            checkpoint.commit_together(self.folder, step, leaves, self.writer, about, barrier, self._cancelled)
        if index() == 0:
            self._delete(scores)

    def _is_over(self, saving: futures.Future[None], wait: bool) -> bool:
        """Return whether a save has ended; with `wait`, wait for its end. Raises: its error.

        Without `wait`, give the thread a moment in which it has the interpreter for itself: a thread whose write the
        disk has just refused must report that before several calls of short steps have begun.
        """
        if not futures.wait([saving], None if wait else MOMENT).done:
            return False
        try:
            saving.result()
        except StorageError:
            folder.discard(self.folder)
            raise
        return True

    def _cancelled(self) -> bool:
        """Return whether the other processes have had their time after the run ended here: one may be gone."""
        return time.monotonic() - self.ended > PATIENCE

    def _delete(self, scores: Mapping[int, float]) -> None:
        saved = folder.steps(self.folder)
        for step in sorted(set(saved) - self._kept(saved, scores)):
            with writing(self.folder / str(step)):
                folder.remove(self.folder / str(step))

    def _kept(self, saved: list[int], scores: Mapping[int, float]) -> set[int]:
        """Return the steps that stay, of those saved (oldest first): the newest, multiples of a period, the best."""
        if self.keep == 0:
            return set(saved)
        periodic = [step for step in saved if self.keep_every and step % self.keep_every == 0]
        rated = [step for step in saved if math.isfinite(scores.get(step, math.nan))]
        best = sorted(rated, key=lambda step: scores[step])[: self.keep_best]
        return {*saved[-self.keep :], *periodic, *best}
