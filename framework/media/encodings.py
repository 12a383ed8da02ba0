"""Bytes of common file formats, made with NumPy and the standard library alone: PNG, WAV, CSV and TSV."""

from __future__ import annotations

import csv
import io
import struct
import wave
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

PNG_COLOURS = {1: 0, 3: 2, 4: 6}
"""PNG's colour types by number of channels: grey, RGB, RGB with transparency."""


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 [H, W, C] with 1, 3 or 4 channels as PNG. ISO/IEC 15948."""
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOURS[channels], 0, 0, 0)
    # Each row begins with the number of its filter; 0 is none.
    rows = np.pad(pixels.reshape(height, width * channels), ((0, 0), (1, 0))).tobytes()
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def wav(samples: np.ndarray, rate: int) -> bytes:
    """Encode int16 [T, C] as WAV with `rate` samples a second."""
    with io.BytesIO() as file:
        with wave.open(file, "wb") as writer:
            writer.setnchannels(samples.shape[1])
            writer.setsampwidth(2)
            writer.setframerate(rate)
            writer.writeframes(samples.astype("<i2").tobytes())
        return file.getvalue()


def delimited(rows: Iterable[Sequence[Any]], delimiter: str = ",") -> bytes:
    """Write rows as CSV, or as TSV by another delimiter, in UTF-8; cells that need quotes have them."""
    with io.StringIO(newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
        return file.getvalue().encode()
