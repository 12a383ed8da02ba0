"""Metrics: from sums on the devices to numbers by tag, their checks, and the speed of a run."""

from __future__ import annotations

import math
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from signal import Signals
from typing import Any, Literal

import jax
import numpy as np

from framework.api import Batch, PyTree, Task, TrainState, Undefined
from framework.steps.metrics import Sums, unpack
from framework.tags import SPEED
from framework.training.stepper import IN_FLIGHT, Parts

Scalars = dict[str, float]

WEIGHTLESS = "all weights of the examples are 0"

LISTED = 4
"""Tags that a line lists; members have many."""

SLOW = 0.05
"""Seconds from which on a batch of an evaluation is slow; its dispatch takes less than a hundredth of that."""


def results(task: Task, means: Mapping[str, Any], tag: str) -> Scalars:
    """Turn totals and counts into numbers by tag: `<tag>/<metric>`, with a suffix for each of several results.

    Numbers of examples without any weight are `Undefined`.
    """
    scalars: Scalars = {}
    for name, (total, count) in jax.device_get(dict(means)).items():
        count = np.float64(count)
        with np.errstate(divide="ignore", invalid="ignore"):  # what this leaves without a value is told in words
            result = task.results.get(name, operator.truediv)(np.asarray(total, np.float64), count)
        named = result if isinstance(result, Mapping) else {"": result}
        for suffix, value in named.items():
            value = value if isinstance(value, Undefined) else float(value)
            value = value if np.any(count != 0) or not math.isnan(value) else Undefined(WEIGHTLESS)
            scalars[f"{tag}/{name}/{suffix}".rstrip("/")] = value
    return scalars


def undefined(scalars: Scalars, told: set[tuple[str, str]]) -> list[str]:
    """Describe the numbers that are `Undefined`, in one line for each reason; `told` is not told again, and grows."""
    tags: dict[str, list[str]] = {}
    for tag, value in scalars.items():
        if isinstance(value, Undefined) and (tag, value.why) not in told:
            told.add((tag, value.why))
            tags.setdefault(value.why, []).append(tag)
    return [f"{_listed(names)} nan: {why}" for why, names in tags.items()]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more} {'are' if len(names) > 1 else 'is'}"


def on_host(parts: Parts) -> Parts:
    """Bring the metrics of a window to the host, as those of one call: [steps, n]."""
    values = jax.device_get([packed.values for packed, _ in parts])
    rows = [value[:count] if count else value[None] for value, (_, count) in zip(values, parts, strict=True)]
    steps = np.concatenate(rows)
    return [(replace(parts[0][0], values=steps), len(steps))]


def first_loss(task: Task, parts: Parts) -> float:
    """Return the loss of the first step of a window; of members, the mean of those that live."""
    packed, count = parts[0]
    mean = unpack(packed)["loss"]
    mean = jax.tree.map(lambda leaf: leaf[0], mean) if count else mean
    return results(task, {"loss": mean}, "train").get("train/loss", np.nan)


def per_step(parts: Parts, name: str, field: Literal["total", "count"] = "total") -> np.ndarray:
    """Return the total, or the count, of a metric for every step of a window: [steps, ...]."""
    values = jax.device_get([packed.values for packed, _ in parts])
    each = [value[:count] if count else value[None] for value, (_, count) in zip(values, parts, strict=True)]
    return np.asarray(getattr(unpack(replace(parts[0][0], values=np.concatenate(each)))[name], field))


def unsound_step(parts: Parts, start: int) -> tuple[int, str] | None:
    """Find the first step of a window whose loss is not finite; every step is looked at, not only the logged ones.

    Args:
      start: updates before the window.

    Returns: the step and what was found; None if all losses are finite.
    """
    losses = per_step(parts, "loss")  # [steps], or [steps, members], of which one must be finite
    failed = ~np.isfinite(losses.reshape(len(losses), -1)).any(axis=1)
    if not failed.any():
        return None
    at = int(np.flatnonzero(failed)[0])
    return start + at + 1, f"train/loss is {losses[at]} at step {start + at + 1}"


def unsound_loss(scalars: Scalars, tag: str) -> str | None:
    """Describe the loss of an evaluation that is not finite; of several members, if none of theirs is."""
    members = [value for name, value in scalars.items() if name.startswith(f"{tag}/loss/")]
    losses = members or [scalars.get(f"{tag}/loss", math.nan)]
    return None if np.isfinite(losses).any() else f"{tag}/loss is {losses[0]}"


def measure(
    step: Callable[..., Mapping[str, Any]],
    feed: Callable[..., PyTree],
    state: TrainState,
    batches: Iterable[Batch],
    stopping: Callable[[], Signals | None] = lambda: None,
) -> Mapping[str, Any] | Signals:
    """Sum totals and counts over batches; on the host in float64, so that the order of batches hardly matters.

    Args:
      stopping: asked after each batch, and after the last; a signal ends the evaluation.

    Returns: sums by name, or the signal.
    """
    waiting: deque[Any] = deque()
    sums = Sums()
    ahead, since = IN_FLIGHT, time.perf_counter()
    for batch in batches:
        waiting.append(step(state, feed(batch, 0)))
        if (signal := stopping()) is not None:
            return signal
        while len(waiting) >= ahead:
            sums.add(waiting.popleft())
            # A dispatched batch cannot be cancelled, so of slow batches only one waits beside the one at work.
            ahead = 2 if time.perf_counter() - since > SLOW else IN_FLIGHT
            since = time.perf_counter()
    # A cancelled wait for data looks like their end.
    if (signal := stopping()) is not None:
        return signal
    for means in waiting:
        sums.add(means)
    return sums.means()


class Clock:
    """Examples per second between two readings; the time before the first one, which compiles, is not counted."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.finished = 0
        self.since: float | None = None

    def lap(self, finished: int) -> Scalars:
        """Return the speed since the last reading, if there was one and steps have been done.

        Args:
          finished: the steps done so far. Where calls wait for their results, those of a window may have been counted
            with the window before.
        """
        examples = (finished - self.finished) * self.batch_size
        if self.since is not None and examples == 0:
            return {}
        elapsed = None if self.since is None else time.perf_counter() - self.since
        self.restart(finished)
        return {} if elapsed is None else {SPEED: examples / elapsed}

    def restart(self, finished: int) -> None:
        """Leave out the time until here."""
        self.finished, self.since = finished, time.perf_counter()
