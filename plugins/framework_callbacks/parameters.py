"""The parameter table as plain text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from framework.api import Parameter
from framework.errors import printable

TABLE_ROWS = 30
"""A longer table has one row for each top-level layer."""

Row = tuple[str, str, int, str]


def parameter_table(parameters: Sequence[Parameter], width: int = 80) -> list[str]:
    """Return path, shape, size and total as aligned lines of at most `width` letters; long paths lose their start.

    Where a run begins with the parameters of another one, or freezes some, a last column says which.
    """
    rows = [(printable(p.path), _shape(p), p.size, printable(p.origin)) for p in parameters]
    rows = rows if len(rows) <= TABLE_ROWS else _shorten(_by_layer(parameters))
    begins = "begins" if any(p.origin for p in parameters) else ""
    head, foot = ("parameter", "shape", "size", begins), ("total", "", f"{sum(p.size for p in parameters):,}", "")
    cells = [head, *((path, shape, f"{size:,}", origin) for path, shape, size, origin in rows), foot]
    path_width, shape_width, size_width, origin_width = (max(map(len, column)) for column in zip(*cells, strict=True))
    path_width = min(path_width, max(width - shape_width - size_width - origin_width - 6, 12))
    return [
        f"{_clip(path, path_width):<{path_width}}  {shape:<{shape_width}}  {size:>{size_width}}  {origin}".rstrip()
        for path, shape, size, origin in cells
    ]


def _shape(parameter: Parameter) -> str:
    return " × ".join(map(str, parameter.shape)) or "scalar"


def _clip(path: str, width: int) -> str:
    return path if len(path) <= width else f"…{path[1 - width :]}"


def _by_layer(parameters: Sequence[Parameter]) -> list[Row]:
    """Return one row for each group of neighbouring parameters of the same top-level layer."""
    layers = itertools.groupby(parameters, key=lambda parameter: parameter.path.partition("/")[0])
    members = [(layer, list(group)) for layer, group in layers]
    return [
        (printable(layer), f"{len(group)} arrays", sum(p.size for p in group), _origins(group))
        for layer, group in members
    ]


def _origins(group: Sequence[Parameter]) -> str:
    """Return the one beginning that all have in common, or that there are several."""
    found = sorted({parameter.origin for parameter in group})
    return printable(found[0]) if len(found) == 1 else "several"


def _shorten(rows: list[Row]) -> list[Row]:
    """Return the first and last rows, with one row for all between."""
    if len(rows) <= TABLE_ROWS:
        return rows
    half = TABLE_ROWS // 2
    between = rows[half : 1 - half]
    total = sum(row[2] for row in between)
    return [*rows[:half], (f"… {len(between)} more layers", "", total, ""), *rows[1 - half :]]
