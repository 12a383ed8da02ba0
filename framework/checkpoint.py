"""Checkpoints of a run, as a callback."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from framework import store
from framework.api import Callback, Run, TrainState
from framework.errors import ConfigError, writing
from framework.places import check_space


class Score(NamedTuple):
    """What makes a checkpoint a good one."""

    tag: str
    sign: int  # 1 if low values are good, -1 if high ones are


class Checkpoint(Callback):
    """Saves the whole state under `checkpoints/<step>` of the run folder, and deletes what need not be kept."""

    def __init__(self, every: int, keep: int, keep_every: int, keep_best: int, score: Score | None) -> None:
        self.every, self.keep, self.keep_every, self.keep_best = every, keep, keep_every, keep_best
        self.score = score
        self.scores: dict[int, float] = {}

    def on_start(self, run: Run) -> None:
        """Note where to save; sweep what a killed process left."""
        self.folder = run.directory / "checkpoints"
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        store.sweep(self.folder)
        # A resumed run knows what is best from the log, so that there is nothing more to save.
        self.scores = _logged(run, self.score.tag) if self.score else {}
        self._delete(self._surplus(store.steps(self.folder)))  # where the run kept more before
        check_space(self.folder, self._copies(run), run.state_bytes)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note the metric that decides which step is best."""
        if self.score and self.score.tag in scalars:
            self.scores[step] = scalars[self.score.tag]

    def on_state(self, step: int, state: TrainState) -> None:
        """Save, unless this step is saved already; then delete what is not to be kept."""
        saved = store.steps(self.folder)
        if step not in saved:
            store.save(self.folder, step, state)
            saved.append(step)
        self._delete(self._surplus(saved))

    def _delete(self, saved: list[int]) -> None:
        for step in saved:
            store.remove(self.folder / str(step))

    def _copies(self, run: Run) -> int:
        """How many more there may be at one time: those to be kept, two where all are, and the one being written."""
        saves = (run.total_steps - run.start_step) // self.every + 1 if self.every else 1
        return max(min(self.keep or 2, saves) + 1 - len(store.steps(self.folder)), 1)

    def _surplus(self, saved: list[int]) -> list[int]:
        if self.keep == 0:
            return []
        kept = set(saved[-self.keep :]) | {step for step in saved if self.keep_every and step % self.keep_every == 0}
        if self.score:
            sign, scores = self.score.sign, self.scores
            rated = [step for step in saved if math.isfinite(scores.get(step, math.nan))]
            kept |= set(sorted(rated, key=lambda step: sign * scores[step])[: self.keep_best])
        return [step for step in saved if step not in kept]


def checkpoint(
    every: int = 0,
    keep: int = 3,
    keep_every: int = 0,
    keep_best: int = 1,
    best: str | None = None,
    mode: Literal["min", "max"] = "min",
) -> Callback:
    """Save the state every `every` steps (0: never in between) and at the end, to be resumed and loaded.

    Args:
      every: period in updates; the config takes it from `train.checkpoint_every`.
      keep: how many of the newest are kept; 0 keeps all. Three leave a choice should the newest be damaged.
      keep_every: steps that are multiples of it are kept for good; 0 for none.
      keep_best: how many of the best are kept as well, where `best` names a metric.
      best: its tag, such as "eval/loss"; checkpoints of steps at which it was logged are compared.
      mode: whether the lowest or the highest value is best.

    Raises: ConfigError if a number is negative.
    """
    if min(every, keep, keep_every, keep_best) < 0:
        raise ConfigError(f"{every=}, {keep=}, {keep_every=}, {keep_best=}: expected numbers of at least 0.")
    score = Score(best, 1 if mode == "min" else -1) if best else None
    return Checkpoint(every, keep, keep_every, keep_best, score)


def _logged(run: Run, tag: str) -> dict[int, float]:
    """The values of a tag up to where the run goes on, by step; a damaged line is nobody's score."""
    scores = {}
    path = run.directory / "metrics.jsonl"
    for line in path.read_text().splitlines() if run.start_step and path.exists() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            entry = json.loads(line)
            if tag in entry and entry["step"] <= run.start_step:
                scores[entry["step"]] = float(entry[tag])
    return scores
