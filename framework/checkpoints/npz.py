"""The arrays of a checkpoint as one file of plain bytes, which NumPy alone can read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.api import Store
from framework.checkpoints.snapshot import as_bytes, size_of

NPY_HEADER = 1 << 10  # bytes; more than NumPy writes before the bytes of an array of bytes


def write(path: Path, leaves: Mapping[str, Any]) -> None:
    """Write an archive, leaf after leaf, and flush it to the disk.

    Raises: OSError.
    """
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, leaf in leaves.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, as_bytes(np.asarray(leaf)), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, like: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read some of the leaves; of each no more bytes than its shape needs, whatever the archive claims.

    Raises: ValueError if a member is compressed or of another size, and whatever zipfile and NumPy raise.
    """
    stored = {}
    with zipfile.ZipFile(path) as archive:
        for name, leaf in like.items():
            member, size = archive.getinfo(f"{name}.npy"), size_of(leaf)
            if member.compress_type != zipfile.ZIP_STORED or not size < member.file_size < size + NPY_HEADER:
                raise ValueError(f"'{name}' takes {member.file_size} bytes, expected {size} and a header")
            with archive.open(member) as file:
                content = file.read(size + NPY_HEADER)
            stored[name] = np.frombuffer(content, leaf.dtype, offset=len(content) - size).reshape(leaf.shape)
    return stored


def files() -> Store:
    """Return the default store: one archive, `arrays.npz`, with the bytes of each array under its path."""
    return Store("files", "arrays.npz", write, read)


FILES = files()
