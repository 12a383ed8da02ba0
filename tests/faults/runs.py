"""The run that is killed, and what is compared: every leaf of every checkpoint, the log, the curves, the record."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tests.faults.processes import fork

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every restart of a run that it reads

EPOCH = 10
"""Batches in one."""

CLOCK = ("time", "crc32")
"""Keys of a line of `metrics.jsonl` that differ between equal runs."""


class Fingerprint(NamedTuple):
    """A finished run, without what a clock has a part in."""

    state: str  # sha256 over every leaf of the last checkpoint
    kept: tuple[int, ...]  # checkpoints
    log: list[dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    record: dict[str, Any]

    def differs(self, other: Fingerprint) -> str | None:
        """The first part that is not equal, in words."""
        for name, mine, theirs in zip(self._fields, self, other, strict=True):
            if mine != theirs:
                return f"{name} differs: {_first_difference(mine, theirs)}"
        return None


class Reference(NamedTuple):
    """The files and numbers of an uninterrupted run."""

    words: list[str]
    print: Fingerprint
    states: Mapping[int, str]  # at every step that is a multiple of `train.checkpoint_every`
    seconds: float  # from the start of the process to its end


@functools.cache
def kept(name: str) -> Path:
    """A folder for what several rows of one process compare with, until its end."""
    place = tempfile.TemporaryDirectory(prefix=f"faults-{name}-")
    atexit.register(place.cleanup)
    return Path(place.name)


def words_of(work: Path, *overrides: str) -> list[str]:
    """A small run in which everything counts that a restart could lose.

    Two hundred distinct images in shuffled batches, with noise added, dropout, Adam's moments, an average of the
    parameters, the best checkpoints by a metric, a stop once that no longer improves, and a test split.
    """
    data = work / "data.npz"
    if not data.exists():
        _write_data(data)
    return [
        "data=arrays",
        f"data.train={data}",
        "data.test=0.2",
        "data.validation=40",
        "data.batch_size=16",
        "data.eval_batch_size=40",
        "data.transform+={gaussian_noise: {scale: 0.3}}",
        "model=mlp",
        "model.hidden=[8]",
        "model.dropout=0.25",
        "optimizer.learning_rate=0.01",
        "ema=0.9",
        "train.steps=600",
        "train.log_every=5",
        "train.eval_every=20",
        "train.checkpoint_every=10",
        "callbacks.checkpoint.best=eval/loss",
        "callbacks.checkpoint.keep_best=2",
        "callbacks+={early_stopping: {metric: eval/loss, patience: 8}}",
        "~callbacks.progress",
        *overrides,
    ]


def reference(work: Path, name: str, words: Sequence[str]) -> Reference:
    """Run twice without interruption, once keeping all checkpoints; both must agree, or nothing after has meaning."""
    every, straight = work / f"{name}-every", work / f"{name}-straight"
    _done([*words, f"run.dir={every}", "callbacks.checkpoint.keep=0"], work / f"{name}.err")
    began = time.monotonic()
    _done([*words, f"run.dir={straight}"], work / f"{name}.err")
    seconds = time.monotonic() - began
    states = {step: state_digest(every, step) for step in steps_of(every)}
    found = fingerprint(straight)
    if found.state != states[max(states)] or found.log != fingerprint(every).log:
        raise SystemExit(f"two uninterrupted runs differ: {every} and {straight}; nothing further has meaning")
    return Reference([*words], found, states, seconds)


def fingerprint(folder: Path) -> Fingerprint:
    """Read a finished run."""
    steps = steps_of(folder)
    record = json.loads((folder / "run.json").read_text())
    kept = {key: record.get(key) for key in ("status", "exit_code", "reason", "step", "metrics")}
    kept["metrics"] = _without_clock(kept["metrics"] or {})
    return Fingerprint(state_digest(folder, steps[-1]), tuple(steps), log_of(folder), curves_of(folder), kept)


def steps_of(folder: Path) -> list[int]:
    """The checkpoints that a run folder lists."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal())


def leaves_of(folder: Path, step: int) -> dict[str, bytes]:
    """Every leaf of a checkpoint, read with NumPy alone and held against the manifest.

    Raises: ValueError, or what NumPy raises, if they do not agree.
    """
    place = folder / "checkpoints" / str(step)
    manifest = json.loads((place / "manifest.json").read_text())["leaves"]
    with np.load(place / "arrays.npz", allow_pickle=False) as file:
        leaves = {name: file[name].tobytes() for name in file}
    if leaves.keys() != manifest.keys():
        raise ValueError(f"{place}: manifest and arrays hold different leaves")
    for name, content in leaves.items():
        if hashlib.sha256(content).hexdigest() != manifest[name]["sha256"]:
            raise ValueError(f"{place}: the bytes of {name} are not those of the manifest")
    return leaves


def state_digest(folder: Path, step: int) -> str:
    """One sha256 over all leaves of a checkpoint."""
    digest = hashlib.sha256()
    for name, content in sorted(leaves_of(folder, step).items()):
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl`, without speeds."""
    return [_without_clock(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read every point of every curve from the event files, by TensorBoard's own reader."""
    place = next(folder.glob("*/events.*")).parent
    accumulator = EventAccumulator(str(place), size_guidance={"tensors": 0}).Reload()
    return {
        tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto).item()) for e in accumulator.Tensors(tag)]
        for tag in sorted(accumulator.Tags()["tensors"])
        if tag.startswith(("train/", "eval/", "test/"))
    }


def leftovers(folder: Path) -> list[str]:
    """Files that a killed save, delete or replacement left."""
    return [path.name for pattern in (".*", "*.draft") for path in folder.rglob(pattern)]


def tail(path: Path, lines: int = 3) -> str:
    """The last lines of a file on one line."""
    return " | ".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _done(words: Sequence[str], errors: Path, prepare: Callable[[], None] = bool) -> None:
    code = fork(words, errors, prepare=prepare).wait()
    if code != 0:
        raise SystemExit(f"an uninterrupted run ended with {code}: {tail(errors)}")


def _without_clock(scalars: Mapping[str, Any]) -> dict[str, Any]:
    return {tag: value for tag, value in scalars.items() if tag not in CLOCK and not tag.startswith("perf/")}


def _write_data(path: Path) -> None:
    random = np.random.default_rng(7)
    labels = np.arange(250, dtype=np.int32) % 5
    means = random.standard_normal((5, 6, 6, 1))
    images = (means[labels] + 1.5 * random.standard_normal((250, 6, 6, 1))).astype(np.float32)
    np.savez(path, inputs=images, targets=labels)


def _first_difference(mine: Any, theirs: Any) -> str:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted({*mine, *theirs}):
            if mine.get(key) != theirs.get(key):
                return f"{key}: {_first_difference(mine.get(key), theirs.get(key))}"
    if isinstance(mine, list) and isinstance(theirs, list):
        for index, (a, b) in enumerate(zip(mine, theirs, strict=False)):
            if a != b:
                return f"entry {index}: {_first_difference(a, b)}"
        return f"{len(mine)} and {len(theirs)} entries"
    return f"{str(mine)[:200]} and {str(theirs)[:200]}"
