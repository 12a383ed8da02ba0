"""Annotations of a factory's options that say the range of a number, against which the registry holds configs."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple


class Within(NamedTuple):
    """Range of a number: the metadata of `Annotated[int, Within(1)]`.

    Attributes:
      low: the least number.
      below: the first number that is too large.
    """

    low: float
    below: float = math.inf

    def __str__(self) -> str:
        return f"from {self.low:g}" + (f" to below {self.below:g}" if self.below < math.inf else "")


Size = Annotated[int, Within(1)]
"""A size, a count or a period, such as features, channels, heads and windows."""

Fraction = Annotated[float, Within(0, 1)]
"""A share that leaves something over, such as the rate of dropout, a momentum or a smoothing."""
