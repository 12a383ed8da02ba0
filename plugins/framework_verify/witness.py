"""A run in a process of its own that is watched from inside: batches, states, logs, and a kill at a chosen step.

Notes are appended to a file, line by line; `trail` reads them. The config comes by stdin, so that no secret in it is
seen in the list of processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import (
    Batch,
    Callback,
    DataPipeline,
    Medium,
    PipelineWrapper,
    PyTree,
    Run,
    StopTraining,
    StrategyWrapper,
    TrainState,
)
from framework.commands.arguments import config_of
from framework.errors import exit_code_of, line_of
from framework.experiment import Experiment, NamedCallback
from framework.runs.run import run
from framework.runs.signals import leave_when_asked
from framework.trees import data_by_path


class Orders(NamedTuple):
    """Instructions for a process."""

    words: Sequence[str]  # of the command line
    config_dir: str | None
    settings: Mapping[str, Any]  # by config key, on top of the words
    trail: str  # the file of notes
    attempt: int  # number of earlier processes of this run
    fatal: int  # the update in which the process dies; 0 for none
    every: int  # updates between two looks at the state
    saved: tuple[int, int]  # the states of steps in (first, second] are kept beside the trail


def main() -> None:
    """Follow the orders on stdin, and end with the exit code of a run."""
    leave_when_asked()
    try:
        follow(Orders(**json.load(sys.stdin)))
    except (Exception, KeyboardInterrupt) as error:
        sys.stderr.write(line_of(error) + "\n")
        sys.exit(exit_code_of(error))


def follow(orders: Orders) -> None:
    """Run as instructed, or go on with the run that was begun.

    Raises: FrameworkError, as a run does.
    """
    config = config_of(list(orders.words), orders.config_dir).with_values(orders.settings)
    run(config, Witness(orders).watch)


class Witness(Callback):
    """Notes all that goes into and comes out of the steps, and changes none of it."""

    def __init__(self, orders: Orders) -> None:
        self.orders, self.every = orders, orders.every
        self.at = 0  # updates that were handed to the devices
        self.arrays: str | None = None
        self._file = os.open(orders.trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watch(self, experiment: Experiment) -> Experiment:
        """Return the experiment with its data, its strategy and its callbacks watched."""
        data = experiment.batches
        memory = data.in_memory()
        self.arrays = None if memory is None else digest(memory.arrays)
        heard = [each._replace(callback=Heard(each, self.note)) for each in experiment.callbacks]
        return experiment._replace(
            batches=Seen(data, self.note),
            strategy=Mortal(experiment.strategy, self),
            callbacks=(NamedCallback("the witness", self), *heard),
        )

    def note(self, **entry: Any) -> None:
        """Append a line, in one write, so that a kill leaves whole lines."""
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    def took(self, updates: int) -> None:
        """Count updates that the devices were given, and die at the chosen one."""
        self.at += updates
        if 0 < self.orders.fatal <= self.at:
            self.note(kill=self.at)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_start(self, run: Run) -> None:
        self.at = run.start_step
        self.note(start=run.start_step, arrays=self.arrays)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        # As text, since a NaN is not equal to itself.
        told = {tag: repr(float(value)) for tag, value in scalars.items() if not tag.startswith("perf/")}
        self.note(log=step, scalars=told)

    def on_state(self, step: int, state: TrainState) -> None:
        leaves = {path: np.asarray(jax.device_get(leaf)) for path, leaf in data_by_path(state).items()}
        self.note(state=step, leaves={path: [digest(leaf), leaf.nbytes] for path, leaf in leaves.items()})
        first, last = self.orders.saved
        if first < step <= last:
            with saved_state(self.orders.trail, self.orders.attempt, step).open("wb") as file:
                contents: dict[str, Any] = {path: comparable(leaf) for path, leaf in leaves.items()}
                np.savez(file, **contents)


class Seen(PipelineWrapper):
    """A pipeline that notes a digest of each batch; of examples in memory, a digest of their indices."""

    def __init__(self, data: DataPipeline, note: Callable[..., None]) -> None:
        super().__init__(data)
        self._note = note

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of a batch, and note their digest."""
        rows = super().rows(seed, step)
        self._note(batch=step + 1, digest=digest(rows))
        return rows

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the pipeline's batches, and note the digest of each."""
        for step, batch in enumerate(self.data.train(seed, start), start + 1):
            self._note(batch=step, digest=digest(batch))
            yield batch

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield the batches of a split, and note one digest of all."""
        every = []
        for batch in self.data.eval(split):
            every.append(digest(batch))
            yield batch
        self._note(split=split, digest=digest(np.array(every)))


@dataclass(frozen=True)
class Mortal(StrategyWrapper):
    """A strategy whose process dies while the devices compute a chosen step."""

    witness: Witness

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Compile a train step whose calls the witness counts."""
        call = self.strategy.train(step, axes)

        def counted(state: TrainState, feed: PyTree) -> Any:
            after = call(state, feed)
            self.witness.took(1 if axes == 0 else int(jax.device_get(feed["count"])))
            return after

        return counted


class Heard(Callback):
    """A callback whose request to end the run is noted with its name."""

    def __init__(self, watcher: NamedCallback, note: Callable[..., None]) -> None:
        self._watcher, self._note = watcher, note
        self.everywhere, self.saves = watcher.callback.everywhere, watcher.callback.saves
        for hook in ("on_built", "on_start", "settle", "on_end"):
            setattr(self, hook, getattr(watcher.callback, hook))

    @property
    def every(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Return the period of the callback."""
        return self._watcher.callback.every

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        with self._noting(step):
            self._watcher.callback.on_log(step, scalars)

    def on_state(self, step: int, state: TrainState) -> None:
        with self._noting(step):
            self._watcher.callback.on_state(step, state)

    def on_media(self, step: int, tag: str, medium: Medium) -> None:
        with self._noting(step):
            self._watcher.callback.on_media(step, tag, medium)

    @contextlib.contextmanager
    def _noting(self, step: int) -> Iterator[None]:
        try:
            yield
        except StopTraining as stop:
            self._note(stop=step, by=self._watcher.label, reason=str(stop))
            raise


def saved_state(trail: str | Path, attempt: int, step: int) -> Path:
    """Return the file that keeps the state after a step."""
    return Path(f"{trail}.{attempt}.{step}.npz")


def digest(tree: PyTree) -> str:
    """Digest paths, dtypes, shapes and bytes of a tree of NumPy arrays, by one sha256."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def comparable(leaf: np.ndarray) -> np.ndarray:
    """Convert a leaf to a dtype that NumPy's files know; float32 holds every bfloat16, and its kin, exactly."""
    return leaf if leaf.dtype.kind in "biufc" else leaf.astype(np.float32)


if __name__ == "__main__":
    main()
