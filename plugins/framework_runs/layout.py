"""Text for terminals of any width: aligned and cut columns, sparklines, numbers, times, and colours with a meaning."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection, Sequence

from framework_runs.reading import Series, clock

BLOCKS = "▁▂▃▄▅▆▇█"

COLOURS = {"done": 32, "running": 36, "ending": 36, "failed": 31, "killed": 33, "stopped": 33, "interrupted": 33}
"""Colours of the terminal by status: green is good, red is an error, yellow asks for something to be done."""


def coloured(text: str, status: str) -> str:
    """Colour a text by a status, if a terminal shows it and `NO_COLOR` is not set."""
    code = COLOURS.get(status)
    is_plain = code is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if is_plain else f"\x1b[{code}m{text}\x1b[0m"


def cut(text: str, size: int | None) -> str:
    """Cut a text to a number of characters, the last of which is then "…"."""
    return text if size is None or len(text) <= size else text[: max(0, size - 1)] + "…"


def cut_left(text: str, size: int | None) -> str:
    """Cut the beginning of a path, whose end tells more."""
    return text if size is None or len(text) <= size else "…" + text[len(text) - size + 1 :]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = (), gap: int = 2) -> list[str]:
    """Align cells in columns.

    Args:
      rows: all of the same length.
      right: columns whose cells end in one line.
      gap: spaces between columns.
    """
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = (cell.rjust(sizes[k]) if k in right else cell.ljust(sizes[k]) for k, cell in enumerate(row))
        lines.append((" " * gap).join(cells).rstrip())
    return lines


def wrapped(facts: Sequence[str], size: int | None) -> list[str]:
    """Join facts by " · " to as few lines as they fit in."""
    lines = [""]
    for fact in facts:
        joined = f"{lines[-1]} · {fact}" if lines[-1] else fact
        if size is None or len(joined) <= size:
            lines[-1] = joined
        else:
            lines.append(fact)
    return [cut(line, size) for line in lines if line]


def columns_that_fit(rows: Sequence[Sequence[str]], size: int | None, least: int, gap: int = 2) -> int:
    """Return how many of the first columns fit into a line, but at least `least`."""
    if size is None:
        return len(rows[0])
    used, fitting = 0, 0
    for column in range(len(rows[0])):
        used += max(len(row[column]) for row in rows) + (gap if column else 0)
        if used > size:
            break
        fitting = column + 1
    return max(least, fitting)


def number(value: object) -> str:
    """Write a value of a metric or a config with five digits; texts as they are, and nothing for None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value}" if isinstance(value, int) else f"{value:.5g}"


def duration(seconds: float | None) -> str:
    """Write seconds as "0:32", "1:02:03" or "2 d 03:04"; "" if they are not known."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(text: str) -> str:
    """Write a time of a record in the time zone of who reads: "2026-01-01 12:00"."""
    seconds = clock(text)
    return text if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def sparkline(series: Series, size: int) -> str:
    """Draw a curve as blocks of eight heights: the mean of each part; a part without a finite value is a space."""
    if not series or size < 1:
        return ""
    size = min(size, len(series))
    parts: list[list[float]] = [[] for _ in range(size)]
    for place, (_, value) in enumerate(series):
        if math.isfinite(value):
            parts[place * size // len(series)].append(value)
    means = [sum(part) / len(part) if part else None for part in parts]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    heights = (7 if high == low else 7 * (mean - low) / (high - low) if mean is not None else 0 for mean in means)
    middle = 3 if high == low else None
    return "".join(
        " " if mean is None else BLOCKS[round(height) if middle is None else middle]
        for mean, height in zip(means, heights, strict=True)
    )
