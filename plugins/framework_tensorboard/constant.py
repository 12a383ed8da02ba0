"""Curves that are constant, which say nothing and are not written."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Points = dict[int, dict[str, float]]
"""Values by step and tag."""


class Varying:
    """Holds the points of a curve back until it changes. Metrics pass at once; a constant accuracy is worth a look.

    A run that goes on is told its history first, so that it knows which curves have changed.
    """

    def __init__(self, mute: Collection[str]) -> None:
        """Take the tags that may be held back, such as "train/learning_rate"."""
        self._mute = mute
        self._held: dict[str, list[tuple[int, float]]] = {}  # first and last point of constant curves
        self._varying: set[str] = set()

    def points(self, step: int, scalars: Mapping[str, float]) -> Points:
        """Return what is to be written: the scalars of curves that vary, and points that were held back of them."""
        found: Points = {}
        for tag, value in scalars.items():
            if tag in self._mute and tag not in self._varying:
                first, *_ = held = self._held.setdefault(tag, [(step, value)])
                if value == first[1]:
                    held[1:] = [(step, value)]
                    continue
                self._varying.add(tag)
                for earlier, constant in self._held.pop(tag):
                    found.setdefault(earlier, {})[tag] = constant
            found.setdefault(step, {})[tag] = value
        return found
