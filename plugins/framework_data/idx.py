"""Reader of the IDX format of MNIST and its relatives, with a check of shape, values and digest.

Format: two zero bytes, a type code (8 for unsigned bytes), the rank, then each dimension as a big-endian uint32, then
the values (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framework.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
GZIP_SLACK = 1 << 16  # bytes that gzip may add to what it cannot compress


class IdxFile(NamedTuple):
    """Description of one file.

    Attributes:
      name: name of the file, without ".gz".
      shape: shape of the array.
      sha256: digest of the uncompressed file, in hex; the same for plain, gzipped and recompressed files.
      values: number of values that a byte may take: 10 for the labels of ten classes.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    values: int = 256

    @property
    def size(self) -> int:
        """Size of the uncompressed file, in bytes."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


def read_idx(path: Path, file: IdxFile) -> np.ndarray:
    """Read a plain or gzipped file; its content tells which of the two it is.

    Returns: uint8 of `file.shape`, read-only.

    Raises: DataError if the file cannot be read or differs from its description; it says what was found and expected.
    """
    try:
        if not path.is_file():
            raise ValueError("found no regular file behind this name, expected one")
        with path.open("rb") as stream:
            return decode(stream.read(file.size + GZIP_SLACK + 1), file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: {reason}. Replace the file, or remove it to have it fetched again.") from error


def decode(data: bytes, file: IdxFile) -> np.ndarray:
    """Turn the content of a plain or gzipped file into its array, without a copy.

    Memory is bounded by `file.size`, for any content.

    Raises: ValueError "found …, expected …".
    """
    content = _inflated(data, file.size) if data.startswith(GZIP_MAGIC) else data
    _check_header(content, file)
    array = np.frombuffer(content, np.uint8, offset=file.size - math.prod(file.shape)).reshape(file.shape)
    if file.values < 256 and array.max() >= file.values:
        raise ValueError(f"found value {array.max()}, expected 0 to {file.values - 1}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"found sha256 {digest}, expected {file.sha256}")
    return array


def _inflated(data: bytes, size: int) -> bytes:
    """Decompress a gzip file up to one byte beyond `size`, which shows that it is too long.

    It calls zlib once for each member of the file. The reader of `gzip` goes piece by piece, and takes twice as long.
    """
    parts, room = [], size + 1
    try:
        while data and room > 0:  # zeros may stand between members and after them
            stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # which checks CRC and length
            parts.append(stream.decompress(data, room))
            room -= len(parts[-1])
            if room > 0 and not stream.eof:
                raise ValueError(f"found a gzip stream cut after {len(data)} bytes, expected a whole one")
            data = stream.unused_data.lstrip(b"\0")
    except zlib.error as error:
        reason = str(error).replace("incorrect data check", "CRC check failed").rpartition(": ")[2]
        raise ValueError(f"found a damaged gzip stream ({reason}), expected an intact one") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_header(content: bytes, file: IdxFile) -> None:
    rank = len(file.shape)
    magic = bytes([0, 0, 8, rank])
    if not content:
        raise ValueError(f"found an empty file, expected {file.size} bytes")
    if content.lstrip()[:1] == b"<":
        raise ValueError("found a web page, expected an IDX file")
    if content[:4] != magic:
        raise ValueError(f"found magic number 0x{content[:4].hex()}, expected 0x{magic.hex()}: bytes of rank {rank}")
    if len(content) < 4 + 4 * rank:
        raise ValueError(f"found {len(content)} bytes, expected {file.size}")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    if shape != file.shape:
        raise ValueError(f"found a header for {_times(shape)} values, expected {_times(file.shape)}")
    if len(content) != file.size:
        found = f"more than {file.size}" if len(content) > file.size else len(content)
        raise ValueError(f"found {found} bytes, expected {file.size}")


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
