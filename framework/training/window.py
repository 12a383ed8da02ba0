"""Means of the training metrics over the steps between two logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from framework.ensembles.evolution import STATE
from framework.steps.metrics import Layout, Packed, unpack
from framework.training.stepper import Parts

LAST = ("learning_rate", "loss_scale", "skipped", "live_members")
"""Names of states rather than measurements: their last value is logged."""

UNDONE = 1
"""Place in the metric "skipped" of the number of updates in a row that were undone."""


class LogWindow:
    """Totals and counts of all metrics since the last log, on the host, in float64.

    They come there anyway, to be checked. Steps are added one after the other, so that a run that was stopped between
    two logs goes on with the same bits. Updates that were undone do not count, unless there are no others.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        """Begin anew, or with what `saved` returned."""
        self._layout: Layout = ()
        self._sums: np.ndarray | None = None  # float64 [n], as `Packed` lays them out
        self._last = np.zeros(0)  # float64 [n], of the last step
        if saved:
            self._layout = tuple((name, tuple(total), tuple(count)) for name, total, count in saved["layout"])
            self._sums = np.frombuffer(bytes.fromhex(saved["sums"]), np.float64)

    def add(self, parts: Parts) -> None:
        """Add the steps of one call, as `on_host` returns them."""
        ((packed, count),) = parts
        steps = np.asarray(packed.values[:count], np.float64)  # [steps, n]
        if self._layout != packed.layout:
            self._layout, self._sums = packed.layout, None
        self._last = steps[-1]
        for name, place, _ in self._places():
            if name == "skipped":
                steps = steps[steps[:, place.start + UNDONE] == 0]
        if len(steps):
            before = [] if self._sums is None else [self._sums[None]]
            # Other sums of NumPy have an order that depends on how many numbers there are.
            self._sums = np.add.accumulate(np.concatenate([*before, steps]), axis=0)[-1]

    def take(self) -> dict[str, Any]:
        """Return total and count of each metric by name, and begin anew."""
        values = self._last.copy() if self._sums is None else self._sums.copy()
        for name, total, count in self._places():
            if name.rpartition("/")[2] in LAST or name.startswith(STATE):
                span = slice(total.start, count.stop)
                values[span] = self._last[span]
        self._sums = None
        return unpack(Packed(values, self._layout))

    def last(self) -> dict[str, Any]:
        """Return total and count of each metric of the last step by name."""
        return unpack(Packed(self._last, self._layout))

    def saved(self) -> dict[str, Any]:
        """Return what a run needs to go on within the window, as JSON; {} right after a log."""
        return {} if self._sums is None else {"layout": self._layout, "sums": self._sums.tobytes().hex()}

    def _places(self) -> list[tuple[str, slice, slice]]:
        """Return name, place of the total and place of the count for each metric."""
        places, start = [], 0
        for name, total, count in self._layout:
            middle = start + int(np.prod(total))
            end = middle + int(np.prod(count))
            places.append((name, slice(start, middle), slice(middle, end)))
            start = end
        return places
