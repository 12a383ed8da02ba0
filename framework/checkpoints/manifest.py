"""The manifest of a checkpoint: every leaf with its digest, under a digest of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from framework.checkpoints.npz import FILES
from framework.checkpoints.shards import file_of
from framework.config.safe_load import load_json
from framework.errors import MismatchError

MANIFEST = "manifest.json"
NOTHING: Mapping[str, Any] = MappingProxyType({})
NAMED = 3  # leaves that an error names; more make no line


def sealed(leaves: Mapping[str, Any], store: str = FILES.name, about: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Return a manifest with its own sha256, so that a damaged one is not taken for that of another model or store."""
    content = {"store": store, "leaves": leaves, **about}
    return {**content, "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def write_manifest(
    folder: Path, leaves: Mapping[str, Any], store: str, process: int = 0, about: Mapping[str, Any] = NOTHING
) -> None:
    """Write the manifest of a checkpoint, or of the part of a process other than 0. Raises: OSError."""
    with (folder / file_of(MANIFEST, process)).open("wb") as file:
        file.write(json.dumps(sealed(leaves, store, about), indent=1).encode())
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path, process: int = 0) -> dict[str, Any]:
    """Read a manifest: "leaves", the descriptions by path, "store", the name of the one that wrote them, and the rest.

    Raises: ValueError if it is damaged, and whatever JSON raises.
    """
    found = load_json(folder / file_of(MANIFEST, process))
    if not isinstance(found, dict):
        raise ValueError(f"it holds {found!r:.40}, expected a mapping")
    about = {name: value for name, value in found.items() if name not in ("store", "leaves", "sha256")}
    if sealed(found["leaves"], found["store"], about) != found or not isinstance(found["store"], str):
        raise ValueError("its sha256 does not match")
    return found


def check_leaves(path: Path, wanted: Mapping[str, Any], leaves: Mapping[str, Any], whole: bool) -> None:
    """Compare the leaves that are asked for with those of the manifest, before anything is allocated.

    Raises: MismatchError naming the leaves that are missing, or have another shape or dtype.
    """
    kinds = {name: f"{np.dtype(like.dtype)}{list(like.shape)}" for name, like in wanted.items()}
    found = {name: f"{leaf['dtype']}{leaf['shape']}" for name, leaf in leaves.items()}
    wrong = [f"holds no '{name}'" for name in kinds if name not in found]
    wrong += [f"'{n}' is {found[n]}, expected {kind}" for n, kind in kinds.items() if found.get(n, kind) != kind]
    wrong += [f"'{name}' has no place in this state" for name in found if whole and name not in kinds]
    if wrong:
        more = f"; {len(wrong) - NAMED} more differ" if len(wrong) > NAMED else ""
        listed = "; ".join(wrong[:NAMED])
        raise MismatchError(f"checkpoint {path}: {listed}{more}; was it saved with another model or optimizer?")
