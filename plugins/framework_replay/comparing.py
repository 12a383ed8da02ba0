"""Two replays side by side, layer by layer, forward and backward: where they part first."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.console.tables import text_table
from framework.errors import ConfigError
from framework.observing import Seen, observing
from framework_replay.case import Case, opened

CLOSE = 1e-3
"""Largest relative difference of two values that are told to be close, which rounding may make."""

HEADS = ("direction", "layer", "value", "hash", "hash", "norm", "norm", "range", "range", "difference", "")

Key = tuple[str, str, str]  # direction, path, part


class Row(NamedTuple):
    """One value in both replays.

    Attributes:
      key: its direction, path and part.
      left, right: the value in each.
      difference: the norm of what differs, relative to the norm of the left one; NaN where one is not finite.
    """

    key: Key
    left: np.ndarray
    right: np.ndarray
    difference: float

    @property
    def verdict(self) -> str:
        """Return "same" for equal bits, "close" for a difference of rounding, else "differs"."""
        if self.left.dtype == self.right.dtype and self.left.tobytes() == self.right.tobytes():
            return "same"
        return "close" if self.difference <= CLOSE else "differs"


class Comparison(NamedTuple):
    """Two replays side by side.

    Attributes:
      sides: what is compared, such as "step 4 of runs/a" and "step 4 of runs/a with strategy=pmap".
      rows: the values that both have, in their order.
      alone: paths of the layers that only one of them has.
    """

    sides: tuple[str, str]
    rows: list[Row]
    alone: list[str]


def against(case: Case, path: Path, other: str) -> Comparison:
    """Compare a case with another one.

    Args:
      case: of `path`.
      path: of the run or capsule.
      other: the folder of another run or capsule; or overrides of this one, such as "precision=bfloat16" or
        "strategy=pmap", separated by spaces.

    Raises: FrameworkError, as `opened`; ConfigError if the two have no value in common.
    """
    is_folder = "=" not in other or Path(other).is_dir()
    second = opened(Path(other)) if is_folder else opened(path, other.split())
    left, right = values(case), values(second)
    rows = [Row(key, left[key], right[key], _difference(left[key], right[key])) for key in left if key in right]
    if not rows:
        raise ConfigError("--against: the two have no layer in common; take runs of one model.")
    alone = [layer for _, layer, _ in (*left, *right) if (layer in _layers(left)) is not (layer in _layers(right))]
    place = other if is_folder else f"{path} with {other}"
    sides = f"step {case.facts.step} of {path}", f"step {second.facts.step} of {place}"
    return Comparison(sides, rows, list(dict.fromkeys(alone)))


def _layers(found: Mapping[Key, np.ndarray]) -> set[str]:
    return {layer for _, layer, _ in found}


def values(case: Case) -> dict[Key, np.ndarray]:
    """Run a step op by op, and keep each value, flat; the parts of several devices are put together."""
    found: dict[Key, list[tuple[int | None, list[np.ndarray]]]] = {}

    def keep(seen: Seen) -> None:
        arrays = [np.array(leaf) for leaf in seen.leaves]
        found.setdefault((seen.direction, seen.path, seen.part), []).append((seen.device, arrays))

    with observing(keep):
        case.step(case.state, case.batch)
        jax.effects_barrier()
    return {key: _joined(case, key, each) for key, each in found.items()}


def _joined(case: Case, key: Key, each: list[tuple[int | None, list[np.ndarray]]]) -> np.ndarray:
    """Join the parts of devices: examples side by side, the gradients of parameters summed, parameters once.

    Of a layer that a step applies several times, the first time is taken.
    """
    direction, _, part = key
    first: dict[int, list[np.ndarray]] = {}
    for device, arrays in each:
        if device is not None:
            first.setdefault(device, arrays)
    parts = [first[device] for device in sorted(first)]
    if not parts:
        parts, here = [each[0][1]], case.size // case.devices
        if case.devices == 1 or part == "params" or any(leaf.shape[:1] != (here,) for leaf in parts[0]):
            return _flat(parts[0])
        parts *= case.devices  # which all devices hold alike
    leaves = zip(*parts, strict=True)
    if part != "params":
        return _flat([np.concatenate(leaf) for leaf in leaves])
    return _flat([np.sum(leaf, axis=0) if direction == "backward" else leaf[0] for leaf in leaves])


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def _difference(left: np.ndarray, right: np.ndarray) -> float:
    if left.shape != right.shape:
        return float("nan")
    one, other = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(one)), 1e-300))


def first_of(rows: Sequence[Row]) -> Mapping[str, Row]:
    """Return the first value with other bits, and the first that differs by more than rounding, where there are any."""
    found = {}
    for row in rows:
        if row.verdict != "same":
            found.setdefault("first with other bits", row)
        if row.verdict == "differs":
            found.setdefault("first beyond rounding", row)
    return found


def text(found: Comparison) -> str:
    """Return what is compared, where the two part, and the table."""
    return "\n".join([*_told(found), "", text_table([HEADS, *map(_cells, found.rows)])])


def as_json(found: Comparison) -> dict[str, Any]:
    """Return the same as plain values."""
    names = ("direction", "path", "part")
    values = [
        {**dict(zip(names, row.key, strict=True)), "difference": row.difference, "verdict": row.verdict}
        for row in found.rows
    ]
    return {"sides": found.sides, "same": not first_of(found.rows), "alone": found.alone, "values": values}


def page(found: Comparison) -> str:
    """Return the same as one HTML page that needs no other file."""
    colours = {"same": "#dfd", "close": "#ffd", "differs": "#fdd"}
    head = "".join(f"<th>{html.escape(each)}</th>" for each in HEADS)
    body = "\n".join(
        f'<tr style="background:{colours[row.verdict]}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row))
        + "</tr>"
        for row in found.rows
    )
    title, *told = _told(found)
    title, lines = html.escape(title), html.escape("\n".join(told))
    style = "body{font-family:sans-serif}td,th{padding:2px 8px;text-align:left;white-space:nowrap}"
    return (
        f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style}</style>\n'
        f"<h1>{title}</h1><pre>{lines}</pre>\n<table><tr>{head}</tr>\n{body}\n</table>\n"
    )


def _told(found: Comparison) -> list[str]:
    parting = [f"{what}: {' '.join(row.key)} ({row.difference:.2g})" for what, row in first_of(found.rows).items()]
    alone = [f"in one of them alone: {', '.join(found.alone)}"] if found.alone else []
    return [" against ".join(found.sides), *(parting or ["all values are the same, bit by bit"]), *alone]


def _cells(row: Row) -> tuple[str, ...]:
    hashes = [hashlib.sha256(each.tobytes()).hexdigest()[:8] for each in (row.left, row.right)]
    wide = [each.astype(np.float64) for each in (row.left, row.right)]
    with np.errstate(invalid="ignore", over="ignore"):
        norms = [f"{np.linalg.norm(each):.6g}" for each in wide]
    ranges = [f"{each.min():.4g} … {each.max():.4g}" if each.size else "" for each in wide]
    return (*row.key, *hashes, *norms, *ranges, f"{row.difference:.2g}", row.verdict)
