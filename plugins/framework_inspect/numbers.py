"""Numbers in words."""

from __future__ import annotations


def scaled(number: float) -> str:
    """Return a number with three digits and a prefix: 1234567 is "1.23 M", 12 is "12 "."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def clock(seconds: float) -> str:
    """Return a time in the largest unit that fits: "45 s", "12 min", "3.5 h", "2.1 days"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
