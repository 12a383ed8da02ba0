"""The notes that a witness took of a run, and the place where two runs part."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Attempt(NamedTuple):
    """One process of a run, from its start to its end or its kill. Steps count updates, from 1."""

    start: int  # the step it went on from
    arrays: str | None  # digest of the training examples, where they lie in memory
    batches: dict[int, str]  # digest of the batch of each step, also of steps that were only prepared
    splits: dict[str, set[str]]  # a digest for each pass over an evaluation split
    states: dict[int, dict[str, tuple[str, int]]]  # after a step: digest and bytes of each leaf, by path
    logs: dict[int, dict[str, str]]  # scalars by tag, as text
    stops: list[tuple[int, str, str]]  # step, the callback that ended the run, and its reason
    kills: list[int]


class Batch(NamedTuple):
    """A step that got another batch."""

    step: int
    twin: int | None  # the step that gets this batch in the reference, if there is one


class Parting(NamedTuple):
    """The first differences between an attempt and the reference; None or empty for what is the same.

    Attributes:
      attempt: number of the attempt, from 0.
      start: the step it went on from.
      arrays: whether the training examples in memory differ.
      batch: the first step that got another batch.
      state: the first step with another state after it, of the steps at which both looked.
      before: the last step before `state` with the same state after it.
      leaves: the paths that differ after step `state`.
      log: the first step that logs other numbers.
      tags: the numbers that differ at step `state`, or at `log` if `state` is None.
      splits: the evaluation splits with other batches; or, if logs differ, with batches that change from pass to pass.
      ends: the early ends of the reference and of the attempt, if they differ.
    """

    attempt: int
    start: int
    arrays: bool
    batch: Batch | None
    state: int | None
    before: int
    leaves: tuple[str, ...]
    log: int | None
    tags: tuple[str, ...]
    splits: tuple[str, ...]
    ends: tuple[list[tuple[int, str, str]], list[tuple[int, str, str]]] | None

    @property
    def is_within(self) -> bool:
        """Tell whether the runs differ in their numbers, not only in their ends."""
        return self.arrays or any(each is not None for each in (self.batch, self.state, self.log))


def read(path: Path) -> list[Attempt]:
    """Read the attempts of a run, in order; the last line may be torn."""
    attempts: list[Attempt] = []
    for entry in _entries(path):
        if "start" in entry:
            attempts.append(Attempt(entry["start"], entry["arrays"], {}, {}, {}, {}, [], []))
            continue
        here = attempts[-1]
        if "batch" in entry:
            here.batches[entry["batch"]] = entry["digest"]
        elif "split" in entry:
            here.splits.setdefault(entry["split"], set()).add(entry["digest"])
        elif "state" in entry:
            here.states[entry["state"]] = {name: (sha, size) for name, (sha, size) in entry["leaves"].items()}
        elif "log" in entry:
            here.logs.setdefault(entry["log"], {}).update(entry["scalars"])
        elif "stop" in entry:
            here.stops.append((entry["stop"], entry["by"], entry["reason"]))
        elif "kill" in entry:
            here.kills.append(entry["kill"])
    return attempts


def whole(attempts: Sequence[Attempt]) -> Attempt:
    """Join a run that was left alone into one attempt: it may have gone back to a checkpoint by itself."""
    first, *others = attempts
    for other in others:
        first.batches.update(other.batches)
        first.states.update(other.states)
        first.logs.update(other.logs)
        first.stops.extend(other.stops)
        for split, seen in other.splits.items():
            first.splits.setdefault(split, set()).update(seen)
    return first


def parting(reference: Attempt, attempts: Sequence[Attempt]) -> Parting | None:
    """Find the first attempt that differs from the reference, and where; None if all are the same."""
    for number, attempt in enumerate(attempts):
        found = _parting(reference, attempt, number, is_last=attempt is attempts[-1])
        if found.is_within or found.splits or found.ends:
            return found
    return None


def _parting(reference: Attempt, attempt: Attempt, number: int, is_last: bool) -> Parting:
    states, logs, batches = (
        (getattr(reference, name), getattr(attempt, name)) for name in ("states", "logs", "batches")
    )
    state, before = _first(*states, attempt.start)
    log, _ = _first(*logs, attempt.start, common=True)
    fed, _ = _first(*batches, attempt.start)
    at = log if state is None else state
    return Parting(
        attempt=number,
        start=attempt.start,
        arrays=reference.arrays != attempt.arrays,
        batch=None if fed is None else Batch(fed, _step_of(reference.batches, attempt.batches[fed])),
        state=state,
        before=before,
        leaves=() if state is None else tuple(unequal(reference.states[state], attempt.states[state])),
        log=log,
        tags=() if at is None else tuple(_common(reference.logs.get(at, {}), attempt.logs.get(at, {}))),
        splits=_other_splits(reference, attempt, log is not None),
        ends=(reference.stops, attempt.stops) if is_last and reference.stops != attempt.stops else None,
    )


def unequal(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return the keys that are missing on one side or have other values, in the order of the left one."""
    return [name for name in {**left, **right} if left.get(name) != right.get(name)]


def _common(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    return [name for name in left if name in right and left[name] != right[name]]


def _first(
    left: Mapping[int, Any], right: Mapping[int, Any], start: int, common: bool = False
) -> tuple[int | None, int]:
    """Return the first step that both hold and that differs, and the last step before it.

    `common` compares only the keys that both have of a step.
    """
    before = start
    for step in sorted(left.keys() & right.keys()):
        if _common(left[step], right[step]) if common else left[step] != right[step]:
            return step, before
        before = step
    return None, before


def _other_splits(reference: Attempt, attempt: Attempt, is_logged: bool) -> tuple[str, ...]:
    pairs = {split: (reference.splits.get(split, set()), seen) for split, seen in attempt.splits.items()}
    return tuple(split for split, (one, two) in pairs.items() if two - one or (is_logged and len(one | two) > 1))


def _step_of(batches: Mapping[int, str], digest: str) -> int | None:
    return next((step for step in sorted(batches) if batches[step] == digest), None)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    lines: Iterable[bytes] = path.read_bytes().splitlines() if path.exists() else ()
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)
