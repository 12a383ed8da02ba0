"""The parameter table as plain text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from framework.api import Parameter
from framework.errors import printable

TABLE_ROWS = 30
"""A longer table has one row for each top-level layer."""

Row = tuple[str, str, int]


def parameter_table(parameters: Sequence[Parameter], width: int = 80) -> list[str]:
    """Return path, shape, size and total as aligned lines of at most `width` letters; long paths lose their start."""
    rows = [(printable(p.path), " × ".join(map(str, p.shape)) or "scalar", p.size) for p in parameters]
    rows = rows if len(rows) <= TABLE_ROWS else _shorten(_by_layer(parameters))
    head, foot = ("parameter", "shape", "size"), ("total", "", f"{sum(p.size for p in parameters):,}")
    cells = [head, *((path, shape, f"{size:,}") for path, shape, size in rows), foot]
    path_width, shape_width, size_width = (max(map(len, column)) for column in zip(*cells, strict=True))
    path_width = min(path_width, max(width - shape_width - size_width - 4, 12))
    return [f"{_clip(p, path_width):<{path_width}}  {s:<{shape_width}}  {n:>{size_width}}" for p, s, n in cells]


def _clip(path: str, width: int) -> str:
    return path if len(path) <= width else f"…{path[1 - width :]}"


def _by_layer(parameters: Sequence[Parameter]) -> list[Row]:
    """Return one row for each group of neighbouring parameters of the same top-level layer."""
    layers = itertools.groupby(parameters, key=lambda parameter: parameter.path.partition("/")[0])
    members = [(layer, list(group)) for layer, group in layers]
    return [(printable(layer), f"{len(group)} arrays", sum(p.size for p in group)) for layer, group in members]


def _shorten(rows: list[Row]) -> list[Row]:
    """Return the first and last rows, with one row for all between."""
    if len(rows) <= TABLE_ROWS:
        return rows
    half = TABLE_ROWS // 2
    between = rows[half : 1 - half]
    return [*rows[:half], (f"… {len(between)} more layers", "", sum(size for *_, size in between)), *rows[1 - half :]]
