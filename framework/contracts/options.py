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

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value < self.below

    def __str__(self) -> str:
        return f"from {self.low:g}" + (f" to below {self.below:g}" if self.below < math.inf else "")


class Above(NamedTuple):
    """Range of a number that must not be its lower end, such as a divisor.

    Attributes:
      above: the largest number that is too small.
      to: the largest number.
    """

    above: float
    to: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.above < value <= self.to

    def __str__(self) -> str:
        return f"above {self.above:g} to {self.to:g}"


Size = Annotated[int, Within(1)]
"""A size, a count or a period, such as features, channels, heads and windows."""

Fraction = Annotated[float, Within(0, 1)]
"""A share that leaves something over, such as the rate of dropout, a momentum or a smoothing."""

Portion = Annotated[float, Above(0, 1)]
"""A share that is not empty, such as that of the units which stax's own dropout keeps and divides by."""
