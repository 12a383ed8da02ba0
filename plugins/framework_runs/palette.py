"""Colours of points: the same in all charts, and told apart by colour-blind people, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of Okabe and Ito (2008), without the yellow that a white page swallows."""

DASHES = ("", "6 3", "2 2", "8 3 2 3")
"""Patterns of lines once all colours are taken, as SVG writes them."""


class Colour(NamedTuple):
    """A colour as "#rrggbb", and the pattern of lines in it."""

    value: str
    dashes: str


def colours(keys: Sequence[str]) -> dict[str, Colour]:
    """Return the colour of each point.

    A point's key decides its colour, so that it is the same in every chart of the same points, and in most others.
    Where two points would have the same one, the later takes the next that is free.

    Args:
      keys: of points, oldest first.
    """
    taken: list[int] = []
    for key in keys:
        wished, round_ = sum(key.encode()) % len(PALETTE), len(taken) // len(PALETTE)
        slots = [round_ * len(PALETTE) + (wished + shift) % len(PALETTE) for shift in range(len(PALETTE))]
        taken.append(next(slot for slot in slots if slot not in taken))
    return {
        key: Colour(PALETTE[slot % len(PALETTE)], DASHES[slot // len(PALETTE) % len(DASHES)])
        for key, slot in zip(keys, taken, strict=True)
    }
