"""Checkpoints of a run, as a callback."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from framework.api import Callback, Run, Store, Summary, TrainState
from framework.checkpoints import checkpoint, folder
from framework.checkpoints import checkpoint as checkpoints
from framework.checkpoints.folder import check_space
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


class Score(NamedTuple):
    """What makes a checkpoint a good one."""

    tag: str
    sign: int  # 1 if low values are good, -1 if high ones are


class Kept(NamedTuple):
    """Which checkpoints stay: the newest, multiples of a period, and the best."""

    newest: int  # 0 for all
    every: int
    best: int
    score: Score | None

    def surplus(self, saved: list[int], scores: Mapping[int, float]) -> list[int]:
        """The steps to delete of those that are saved, oldest first."""
        if self.newest == 0:
            return []
        kept = set(saved[-self.newest :]) | {step for step in saved if self.every and step % self.every == 0}
        if self.score:
            sign = self.score.sign
            rated = [step for step in saved if math.isfinite(scores.get(step, math.nan))]
            kept |= set(sorted(rated, key=lambda step: sign * scores[step])[: self.best])
        return [step for step in saved if step not in kept]


@dataclass(eq=False)
class Checkpoint(Callback):
    """Save the state every `every` steps (0: never in between) and at the end, to be resumed and loaded.

    Args:
      every: period in updates; the config takes it from `train.checkpoint_every`.
      keep: how many of the newest are kept; 0 keeps all. Three leave a choice should the newest be damaged.
      keep_every: steps that are multiples of it are kept for good; 0 for none.
      keep_best: how many of the best are kept as well, where `best` names a metric.
      best: its tag, such as "eval/loss"; checkpoints of steps at which it was logged are compared.
      mode: whether the lowest or the highest value is best.
      asynchronous: train on while a thread digests and writes, which costs a copy of the state in the host's memory; at
        the end, and at a signal, it is waited for. False does all that between two steps, without the copy.
      store: writes the arrays: null takes `files`, in half the time of `orbax` and readable by NumPy alone; `orbax`
        keeps arrays that are cut over devices in their pieces.

    Raises: ConfigError if a number is negative.
    """

    everywhere = True  # each process writes what its devices hold
    every: int = 0
    keep: int = 3
    keep_every: int = 0
    keep_best: int = 1
    best: str | None = None
    mode: Literal["min", "max"] = "min"
    asynchronous: bool = True
    store: Store | None = None

    def __post_init__(self) -> None:
        every, keep, keep_every, keep_best = self.every, self.keep, self.keep_every, self.keep_best
        if min(every, keep, keep_every, keep_best) < 0:
            raise ConfigError(f"{every=}, {keep=}, {keep_every=}, {keep_best=}: expected numbers of at least 0.")
        score = Score(self.best, 1 if self.mode == "min" else -1) if self.best else None
        self.kept, self.writer = Kept(keep, keep_every, keep_best, score), self.store or FILES
        self.scores: dict[int, float] = {}
        self.saving: futures.Future[None] | None = None

    def on_start(self, run: Run) -> None:
        """Note where to save; sweep what a killed process left."""
        self.folder, self.ended = run.directory / "checkpoints", math.inf
        agree(lambda: self._prepare(run))
        self.thread = futures.ThreadPoolExecutor(1, "checkpoint")

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note the metric that decides which step is best."""
        if self.kept.score and self.kept.score.tag in scalars:
            self.scores[step] = scalars[self.kept.score.tag]

    def on_state(self, step: int, state: TrainState) -> None:
        """Save, unless this step is saved already; then delete what is not to be kept.

        Asynchronously, the state is only copied here. There is never more than one copy: a save waits for the last one.
        """
        self.settle(wait=True)
        if not agree(lambda: self._begin(step)):
            return
        state = state if self.writer.everywhere else addressable(state)
        leaves = snapshot(state) if self.asynchronous or count() > 1 else data_by_path(state)
        self.saving = self.thread.submit(self._save, step, leaves, {**self.scores}, Barrier())
        self.settle(wait=not self.asynchronous)

    def settle(self, wait: bool) -> None:
        """Raise, in all processes, the error of the save that goes on, if it is over or once it is."""
        saving, self.saving = self.saving, None
        if saving is not None and not agree(lambda: self._is_over(saving, wait)):
            self.saving = saving

    def on_end(self, summary: Summary) -> None:
        """Let a save that goes on come to its end; after another error, its own is no more than a warning."""
        self.ended = time.monotonic()
        self.thread.shutdown()
        saving, self.saving = self.saving, None
        try:
            if saving is not None:
                self._is_over(saving, wait=True)
        except Exception as error:
            LOGGER.warning(str(error))

    def _prepare(self, run: Run) -> None:
        with writing(self.folder):
            self.folder.mkdir(mode=0o770, exist_ok=True)
        folder.sweep(self.folder)
        self.scores = dict(run.history.series(self.kept.score.tag)) if self.kept.score else {}
        self._delete(self.scores)  # where the run kept more before
        check_space(self.folder, self._copies(run), run.state_bytes)

    def _begin(self, step: int) -> bool:
        """Whether this step is to be saved; where others write too, the folder is made before any of them does."""
        if step in folder.steps(self.folder):
            self._delete(self.scores)
            return False
        if count() > 1:
            checkpoints.begin(self.folder, step)
        return True

    def _save(self, step: int, leaves: Mapping[str, Any], scores: Mapping[int, float], errand: Barrier) -> None:
        if count() == 1:
            checkpoints.commit(self.folder, step, leaves, self.writer)
        else:
            checkpoint.commit_together(self.folder, step, leaves, self.writer, errand, self._given_up)
        if index() == 0:
            self._delete(scores)

    def _is_over(self, saving: futures.Future[None], wait: bool) -> bool:
        """Whether a save has come to its end, once it has if `wait`. Raises: its error.

        Without `wait`, it is given a moment in which the thread has the interpreter for itself: a thread that has just
        been refused by the disk must come to say so before several calls of short steps have begun.
        """
        if not futures.wait([saving], None if wait else MOMENT).done:
            return False
        try:
            saving.result()
        except StorageError:
            folder.discard(self.folder)
            raise
        return True

    def _given_up(self) -> bool:
        """Whether the others have had their time after the run has ended here: one of them may be gone."""
        return time.monotonic() - self.ended > PATIENCE

    def _delete(self, scores: Mapping[int, float]) -> None:
        for step in self.kept.surplus(folder.steps(self.folder), scores):
            with writing(self.folder / str(step)):
                folder.remove(self.folder / str(step))

    def _copies(self, run: Run) -> int:
        """How many more there may be at one time: those to be kept, two where all are, and the one being written."""
        saves = (run.total_steps - run.start_step) // self.every + 1 if self.every else 1
        return max(min(self.kept.newest or 2, saves) + 1 - len(folder.steps(self.folder)), 1)
