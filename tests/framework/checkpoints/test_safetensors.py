"""Arrays in the safetensors format: read by the format's own library, and read from what it wrote."""

from __future__ import annotations

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from framework import testing
from framework.checkpoints import safetensors
from framework.errors import StorageError

ARRAYS = {
    "params/0_Dense/W": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([1.5, -0.0, np.nan], np.float16),
    "brain": np.asarray(jnp.arange(5, dtype=jnp.bfloat16)),
    "eighth": np.asarray(jnp.array([0.5, 2], jnp.float8_e4m3fn)),
    "scalar": np.array(7, np.int32),
    "empty": np.zeros((0, 3), np.int64),
    "flags": np.array([[True, False]]),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
    safetensors.write(tmp_path / "a.safetensors", ARRAYS, {"made": "by a test"})
    testing.assert_same_bits(safetensors.read(tmp_path / "a.safetensors"), ARRAYS)


def test_the_library_of_the_format_reads_and_writes_the_same(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {name: array for name, array in ARRAYS.items() if name not in ("brain", "eighth")}
    safetensors.write(tmp_path / "ours", arrays, {"made": "by a test"})
    testing.assert_same_bits(library.load_file(tmp_path / "ours"), arrays)
    library.save_file({name: np.array(array, order="C") for name, array in arrays.items()}, tmp_path / "theirs")
    testing.assert_same_bits(safetensors.read(tmp_path / "theirs"), arrays)


def file_of(header, content=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


HOSTILE = {
    "nothing": b"",
    "a length beyond the file": file_of({}, length=2**60),
    "no JSON": file_of(b"{"),
    "a list": file_of([1]),
    "an unknown dtype": file_of(entry("F7"), bytes(4)),
    "offsets beyond the file": file_of(entry(offsets=(0, 8), shape=(2,)), bytes(4)),
    "offsets of another shape": file_of(entry(shape=(2,)), bytes(4)),
    "a shape below 0": file_of(entry(shape=(-1, -1)), bytes(4)),
    "bytes that no array has": file_of(entry(), bytes(12)),
    "no offsets": file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "deep nesting": file_of(b"[" * 100_000),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_or_hostile_file_is_refused_in_one_line(tmp_path, case):
    (tmp_path / "a").write_bytes(HOSTILE[case])
    with pytest.raises(StorageError, match="cannot be read as safetensors") as caught:
        safetensors.read(tmp_path / "a")
    testing.message(caught)
