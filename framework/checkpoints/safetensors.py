"""Arrays by name in one file, as the safetensors format has it: a JSON header, and the bytes one after the other.

Format: https://huggingface.co/docs/safetensors, version 1. NumPy alone is enough to read and write it.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from framework.errors import StorageError, writing

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}

LONGEST = 100_000_000
"""Bytes of a header, as the format limits it."""


def write(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays by name, and flush them to the disk.

    Args:
      metadata: texts that the header holds beside.

    Raises: StorageError if it cannot be written, or the format knows no such dtype.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    found, end = {name: np.asarray(array) for name, array in arrays.items()}, 0
    for name, array in found.items():
        if array.dtype not in NAMES:
            known = ", ".join(NAMES.values())
            raise StorageError(f"{path} cannot hold '{name}', which is {array.dtype}; expected {known}.")
        start, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)  # so that the arrays begin at a multiple of 8
    with writing(path), path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        for array in found.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays by name.

    Raises: StorageError if it is not such a file, or is damaged.
    """
    try:
        content = np.fromfile(path, np.uint8)  # a mapped file that is rewritten ends the process
        (length,) = struct.unpack("<Q", content[:8].tobytes())
        if length > min(LONGEST, len(content) - 8):
            raise ValueError(f"its header claims {length} bytes")
        header, data = json.loads(content[8 : 8 + length].tobytes()), content[8 + length :]
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        arrays = {name: _array(name, entry, data) for name, entry in entries.items()}
        if sum(array.nbytes for array in arrays.values()) != len(data):
            raise ValueError("its arrays are not the whole of it")
        return arrays
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise StorageError(f"{path} cannot be read as safetensors: {error}.") from error


def _array(name: str, entry: Mapping[str, Any], data: np.ndarray) -> np.ndarray:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"'{name}' has the unknown dtype {entry['dtype']!r}")
    dtype, shape, (start, end) = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
    if not (all(size >= 0 for size in shape) and 0 <= start <= end <= len(data)):
        raise ValueError(f"'{name}' lies outside of the file")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"'{name}' takes {end - start} bytes, expected those of {dtype}{list(shape)}")
    return data[start:end].view(dtype).reshape(shape)
