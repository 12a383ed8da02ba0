"""Whatever is wrong with an IDX file is said in one line, and costs no more memory than the file should."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest

from framework.errors import DataError
from framework_data.idx import IdxFile, read_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def encode(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def described(array, values=256):
    return IdxFile("file", array.shape, hashlib.sha256(encode(array)).hexdigest(), values)


GOOD, GOOD_LABELS = encode(IMAGES), encode(LABELS)
ZIPPED = gzip.compress(GOOD)
PAGE = b"\n<!DOCTYPE html><html><body>404</body></html>"


def flipped(data, at, bit=4):
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def header(count, magic=b"\0\0\x08\x03"):
    return magic + struct.pack(">3I", count, 4, 3)


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        ZIPPED,
        gzip.compress(GOOD, 1),
        gzip.compress(GOOD[:30]) + gzip.compress(GOOD[30:]),
        ZIPPED + b"\0" * 8,
    ],
    ids=["plain", "gzip", "recompressed", "two members", "zero padding"],
)
def test_plain_and_gzipped_content_verifies_alike(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        array = read_idx(tmp_path / name, described(IMAGES))
        assert array.dtype == np.uint8
        assert np.array_equal(array, IMAGES)


DAMAGED = {
    "empty": (b"", "found an empty file, expected 88 bytes"),
    "cut in magic": (GOOD[:3], "found magic number 0x000008, expected 0x00000803"),
    "cut in header": (GOOD[:9], "found 9 bytes, expected 88"),
    "header only": (GOOD[:16], "found 16 bytes, expected 88"),
    "cut by one byte": (GOOD[:-1], "found 87 bytes, expected 88"),
    "trailing junk": (GOOD + b"x", "found more than 88 bytes, expected 88"),
    "floats": (header(6, b"\0\0\x0d\x03") + GOOD[16:], "found magic number 0x00000d03, expected 0x00000803"),
    "labels for images": (GOOD_LABELS, "found magic number 0x00000801, expected 0x00000803"),
    "little-endian": (GOOD[3::-1] + GOOD[4:], "found magic number 0x03080000"),
    "two thousand million images": (
        header(2**31) + GOOD[16:],
        "found a header for 2147483648 × 4 × 3 values, expected 6",
    ),
    "the most a header can claim": (b"\0\0\x08\x03" + b"\xff" * 12, "4294967295 × 4294967295 × 4294967295"),
    "one image too few": (header(5) + GOOD[16:-12], "found a header for 5 × 4 × 3 values, expected 6 × 4 × 3"),
    "swapped dimensions": (GOOD[:8] + struct.pack(">2I", 3, 4) + GOOD[16:], "found a header for 6 × 3 × 4"),
    "flipped bit": (flipped(GOOD, 50), "found sha256"),
    "web page": (PAGE, "found a web page, expected an IDX file"),
    "gzipped web page": (gzip.compress(PAGE), "found a web page"),
    "gzip of nothing": (gzip.compress(b""), "found an empty file"),
    "gzip magic only": (ZIPPED[:2], "found a gzip stream cut after 2 bytes"),
    "gzip cut in the middle": (ZIPPED[: len(ZIPPED) // 2], "found a gzip stream cut after"),
    "gzip cut in its trailer": (ZIPPED[:-1], "found a gzip stream cut after"),
    "gzip with a wrong CRC": (flipped(ZIPPED, len(ZIPPED) - 7), "found a damaged gzip stream (CRC check failed"),
    "gzip with a wrong length": (flipped(ZIPPED, len(ZIPPED) - 3), "found a damaged gzip stream"),
    "gzip with junk behind": (ZIPPED + b"junk", "found a damaged gzip stream"),
    "gzip of something else": (gzip.compress(flipped(GOOD, 60)), "found sha256"),
    "gzip twice": (gzip.compress(ZIPPED), "found magic number 0x1f8b0800"),
    "gzip of too much": (gzip.compress(GOOD + bytes(200_000_000), 1), "found more than 88 bytes"),
    "a long plain file": (GOOD + bytes(10_000_000), "found more than 88 bytes"),
}


@pytest.mark.parametrize(("content", "text"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_one_line_with_file_found_and_expected(tmp_path, content, text):
    path = tmp_path / "images"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_idx(path, described(IMAGES))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert line.startswith(f"{path}: found ")
    assert text in line
    assert ", expected " in line
    assert "\n" not in line
    assert peak < 4_000_000


@pytest.mark.parametrize("position", range(0, len(ZIPPED) * 8, 37))
def test_no_flipped_bit_of_a_gzip_file_gives_other_numbers(tmp_path, position):
    path = tmp_path / "images.gz"
    path.write_bytes(flipped(ZIPPED, position // 8, 1 << position % 8))
    try:
        array = read_idx(path, described(IMAGES))
    except DataError:
        return
    assert np.array_equal(array, IMAGES)  # bits of the header that mean nothing, such as the time


def test_a_label_beyond_the_classes_is_named(tmp_path):
    path = tmp_path / "labels"
    wrong = LABELS.copy()
    wrong[2] = 10
    path.write_bytes(encode(wrong))
    with pytest.raises(DataError, match="found value 10, expected 0 to 9"):
        read_idx(path, described(wrong, values=10))
    path.write_bytes(GOOD_LABELS)
    assert read_idx(path, described(LABELS, values=10)).tolist() == LABELS.tolist()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "images")
    with pytest.raises(DataError, match="found no regular file"):
        read_idx(tmp_path / "images", described(IMAGES))
