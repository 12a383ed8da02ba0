"""A step run op by op, with figures of every value that a layer takes and makes, and of its gradient."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from framework.api import TrainState
from framework.observing import Seen, observing
from framework.ranges import beyond, declared
from framework_replay.case import Case


class Figures(NamedTuple):
    """A value of a layer, in figures.

    Attributes:
      path, part, direction, device: as `Seen` has them.
      dtype: of its first array.
      shape: of its first array.
      least, most, mean: of its finite numbers; 0 where there are none.
      zeros: share of its numbers that are 0.
      nans, infs: how many of its numbers are.
      norm: Euclidean norm of its finite numbers.
      rows: the places along the first axis that hold a number that is not finite.
    """

    path: str
    part: str
    direction: str
    device: int | None
    dtype: str
    shape: tuple[int, ...]
    least: float
    most: float
    mean: float
    zeros: float
    nans: int
    infs: int
    norm: float
    rows: tuple[int, ...]

    @property
    def is_bad(self) -> bool:
        """Tell whether a number is not finite."""
        return self.nans + self.infs > 0


class Watched(NamedTuple):
    """The values of a step.

    Attributes:
      seen: all of them, in the order in which they were made.
      after: the state after it.
      beyond: description of the first integer that a layer has no row for, such as a token of 7 of 5; None if none.
    """

    seen: list[Figures]
    after: TrainState
    beyond: str | None


def watch(case: Case) -> Watched:
    """Run a step op by op, and note the figures of every value."""
    seen: list[Figures] = []
    with observing(lambda value: seen.append(figures(value))), declared() as noted:
        after, _ = case.step(case.state, case.batch)
        jax.effects_barrier()
    # The parts of a batch on several devices are traced; their integers are not known here.
    known = [(inputs, size) for inputs, size in noted if not isinstance(inputs, Tracer)]
    faults = (beyond(np.atleast_1d(inputs), None, [size]) for inputs, size in known)
    return Watched(seen, after, next((text for _, text in filter(None, faults)), None))


def figures(value: Seen) -> Figures:
    """Measure a value."""
    arrays = [np.asarray(leaf) for leaf in value.leaves]
    dtype, shape = str(arrays[0].dtype), arrays[0].shape
    rows = tuple(np.flatnonzero(_bad_rows(arrays[0])).tolist()) if arrays[0].ndim else ()
    flat = np.concatenate([np.abs(each).ravel() if np.iscomplexobj(each) else each.ravel() for each in _wide(arrays)])
    sound = flat[np.isfinite(flat)]
    least, most, mean = (float(sound.min()), float(sound.max()), float(sound.mean())) if sound.size else (0.0, 0.0, 0.0)
    with np.errstate(over="ignore"):
        norm = float(np.sqrt(np.square(sound).sum()))
    return Figures(
        value.path,
        value.part,
        value.direction,
        value.device,
        dtype,
        shape,
        least,
        most,
        mean,
        float((flat == 0).mean()) if flat.size else 0.0,
        int(np.isnan(flat).sum()),
        int(np.isinf(flat).sum()),
        norm,
        rows,
    )


def _wide(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [each if np.iscomplexobj(each) else each.astype(np.float64) for each in arrays]


def _bad_rows(array: np.ndarray) -> np.ndarray:
    wide = array if np.iscomplexobj(array) else array.astype(np.float64)
    sound = np.isfinite(wide).reshape(len(array), -1)
    return np.logical_not(np.all(sound, axis=1))
