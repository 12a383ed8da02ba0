"""Saving of arrays that are cut over processes: each process writes its pieces, and reads those it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.checkpoints.snapshot import Box, LocalShards, box_of, digest, on_devices
from framework.distributed.processes import index


class Piece(NamedTuple):
    """The description of one piece in a manifest."""

    process: int  # whose file holds it
    box: Box
    sha256: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return tuple(stop - start for start, stop in self.box)


def file_of(name: str, process: int) -> str:
    """Return the name of a process's file or folder: "arrays.npz" of process 0, "arrays.1.npz" of process 1."""
    path = Path(name)
    return name if process == 0 else f"{path.stem}.{process}{path.suffix}"


def describe(leaf: Any) -> dict[str, Any]:
    """Return the description of a leaf for the manifest, or of the pieces of it that this process writes."""
    if not isinstance(leaf, LocalShards):
        array = np.asarray(leaf)
        return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest(array)}
    pieces = [
        {"process": index(), "box": [list(pair) for pair in box], "sha256": digest(data)}
        for box, data in leaf.pieces.items()
    ]
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "pieces": pieces}


def arrays(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arrays for a store: whole leaves by path, pieces by path and box, such as "params/0/W[0:4,0:8]"."""
    named: dict[str, Any] = {}
    for path, leaf in leaves.items():
        if isinstance(leaf, LocalShards):
            named |= {_name(path, box): data for box, data in leaf.pieces.items()}
        else:
            named[path] = leaf
    return named


def merge(described: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the descriptions of all processes, process 0 first.

    Raises: ValueError if the pieces of a leaf are not all of it.
    """
    first, *others = described
    merged = {path: dict(entry) for path, entry in first.items()}
    for path, entry in merged.items():
        if "pieces" in entry:
            entry["pieces"] = [piece for part in (first, *others) if path in part for piece in part[path]["pieces"]]
            pieces_of(path, entry)
    return merged


def pieces_of(name: str, entry: Mapping[str, Any]) -> tuple[Piece, ...]:
    """Return the pieces of a leaf from its description.

    Raises: ValueError if they are not the whole of it, and other errors for a forged manifest.
    """
    found = []
    for piece in entry["pieces"]:
        box = tuple((start, stop) for start, stop in piece["box"])
        inside = all(0 <= start <= stop <= size for (start, stop), size in zip(box, entry["shape"], strict=True))
        if not inside or not isinstance(piece["process"], int):
            raise ValueError(f"a piece of '{name}' lies outside of it")
        found.append(Piece(piece["process"], box, piece["sha256"]))
    if sum(math.prod(piece.shape) for piece in found) != math.prod(entry["shape"]):
        raise ValueError(f"the pieces of '{name}' are not the whole of it")
    return tuple(found)


Fetch = Callable[[int, Mapping[str, jax.ShapeDtypeStruct]], Mapping[str, Any]]
"""`fetch(process, {name: shape})` reads some of the arrays that a process wrote."""


def assemble(name: str, like: jax.ShapeDtypeStruct, pieces: Sequence[Piece], fetch: Fetch) -> Any:
    """Put a leaf together from the pieces that the devices of this process need; without a sharding, from all.

    Raises: ValueError if one is not as it was saved.
    """
    whole = tuple((0, stop) for stop in like.shape)
    if like.sharding is None:
        return _region(whole, like.dtype, _read(name, like, pieces, fetch))
    parts = like.sharding.addressable_devices_indices_map(like.shape).values()
    wanted = {box_of(part, like.shape) for part in parts if part is not None}
    needed = [piece for piece in pieces if any(_common(piece.box, box) is not None for box in wanted)]
    found = _read(name, like, needed, fetch)

    def values(part: Any) -> np.ndarray:
        return _region(box_of(part, like.shape), like.dtype, found)

    return on_devices(like.shape, like.sharding, values)


def _read(name: str, like: jax.ShapeDtypeStruct, pieces: Sequence[Piece], fetch: Fetch) -> dict[Box, np.ndarray]:
    found: dict[Box, np.ndarray] = {}
    for process in sorted({piece.process for piece in pieces}):
        own = [piece for piece in pieces if piece.process == process]
        shapes = {_name(name, piece.box): jax.ShapeDtypeStruct(piece.shape, like.dtype) for piece in own}
        stored = fetch(process, shapes)
        found |= {piece.box: checked(_name(name, piece.box), shapes, stored, piece.sha256) for piece in own}
    return found


def checked(name: str, likes: Mapping[str, Any], found: Mapping[str, Any], expected: str) -> Any:
    """Return a stored array.

    Raises: ValueError if its shape, dtype or sha256 differs from what was saved.
    """
    like, stored = likes[name], found[name]
    if stored.shape != like.shape or np.dtype(stored.dtype) != np.dtype(like.dtype):
        raise ValueError(f"'{name}' came back as {stored.dtype}{list(stored.shape)}")
    if digest(np.asarray(stored)) != expected:
        raise ValueError(f"the bytes of '{name}' are not those that were saved")
    return stored


def _region(box: Box, dtype: Any, found: Mapping[Box, np.ndarray]) -> np.ndarray:
    """Put the values of a box together from those of others."""
    if box in found:
        return np.asarray(found[box])
    region = np.empty([stop - start for start, stop in box], dtype)
    for other, values in found.items():
        if (common := _common(box, other)) is not None:
            region[_within(common, box)] = np.asarray(values)[_within(common, other)]
    return region


def _common(box: Box, other: Box) -> Box | None:
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def _within(box: Box, outer: Box) -> tuple[slice, ...]:
    return tuple(slice(start - first, stop - first) for (start, stop), (first, _) in zip(box, outer, strict=True))


def _name(path: str, box: Box) -> str:
    return f"{path}[{','.join(f'{start}:{stop}' for start, stop in box)}]"
