"""Raw inputs from files, block by block, in their order: arrays, tables, texts, and folders of images.

A block is (ids, raw): names or numbers of its examples, and what a preprocessor takes.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framework.errors import ConfigError, DataError, told

Block = tuple[list[Any], Any]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")

IDS = ("id", "ids")
"""Names of an array or column that holds ids."""

UNREADABLE = (OSError, ValueError, KeyError, EOFError, OverflowError, MemoryError, csv.Error)
UNREADABLE += (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)  # an encrypted or unknown archive

FORMS = "an .npy, .npz, .csv or .txt file, or a folder of images or .npy files"


class Wanted(NamedTuple):
    """Facts about a model's inputs: number of examples that it takes at once, and their kind.

    Attributes:
      size: of a block.
      channels: of an image, the last axis of the inputs; 0 where they are no single array.
      by_name: rows of a table go to a preprocessor by the names of their columns, and else as numbers.
    """

    size: int
    channels: int
    by_name: bool


def read(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Yield the examples of a file or folder in blocks of one size; the last may be smaller.

    Raises: ConfigError for an unknown kind of file; DataError if it cannot be read.
    """
    readers: Mapping[str, Callable[[Path, Wanted], Iterator[Block]]]
    readers = {".npy": _array, ".npz": _arrays, ".csv": _rows, ".txt": _lines}
    if path.is_dir():
        reader = _pictures if _images(path) else _folder
    elif not path.exists():
        raise DataError(f"{path} does not exist; expected {FORMS}.")
    elif (reader := readers.get(path.suffix.lower())) is None:
        raise ConfigError(f"{path} has the ending '{path.suffix}'; expected {FORMS}.")
    try:
        yield from reader(path, wanted)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {told(error).rstrip('.')}.") from error


def _array(path: Path, wanted: Wanted) -> Iterator[Block]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 0:
        raise DataError(f"{path} holds a single number, expected an array [examples, ...].")
    for first in range(0, len(array), wanted.size):
        block = np.asarray(array[first : first + wanted.size])
        yield list(range(first, first + len(block))), block


def _folder(path: Path, wanted: Wanted) -> Iterator[Block]:
    files = sorted(path.glob("*.npy"))
    if not files:
        raise DataError(f"{path} holds neither images ({', '.join(PICTURES)}) nor .npy files.")
    yield from _together({file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}, path, wanted)


def _arrays(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Read the arrays of an archive side by side, without more of them in memory than a block."""
    with ExitStack() as opened:
        archive = opened.enter_context(zipfile.ZipFile(path))
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        members = {name[:-4]: _Member(opened.enter_context(archive.open(name)), f"{path}: {name}") for name in names}
        yield from _together(members, path, wanted)


class _Member:
    """An array of an archive, read from its first row to its last: slices of it are asked for in order."""

    def __init__(self, file: Any, title: str) -> None:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, is_fortran, self.dtype = read(file)
        if self.dtype.hasobject or (is_fortran and len(self.shape) > 1):
            raise DataError(
                f"{title} holds Python objects or lies in Fortran's order; write it by np.ascontiguousarray."
            )
        self.file = file

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __getitem__(self, part: slice) -> np.ndarray:
        shape = (part.stop - part.start, *self.shape[1:])
        content = self.file.read(int(np.prod(shape)) * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(shape)


def _together(arrays: Mapping[str, Any], path: Path, wanted: Wanted) -> Iterator[Block]:
    """Yield blocks of "inputs", of the only array, or else of all arrays by name."""
    ids = next((arrays[name] for name in IDS if name in arrays), None)
    fields = {name: array for name, array in arrays.items() if name not in IDS}
    fields = {"inputs": fields["inputs"]} if "inputs" in fields else fields
    sizes = {len(array) for array in [*fields.values(), *([] if ids is None else [ids])]}
    if len(sizes) != 1:
        found = ", ".join(f"{name} {len(array)}" for name, array in arrays.items()) or "none"
        raise DataError(f"{path} holds arrays of unequal lengths: {found}; expected one entry for each example.")
    (count,) = sizes
    for first in range(0, count, wanted.size):
        part = slice(first, min(first + wanted.size, count))
        block = {name: np.asarray(array[part]) for name, array in fields.items()}
        named = list(range(part.start, part.stop)) if ids is None else np.asarray(ids[part]).tolist()
        yield named, next(iter(block.values())) if len(block) == 1 else block


def _rows(path: Path, wanted: Wanted) -> Iterator[Block]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with the mark of UTF-8
        table = csv.DictReader(file)
        heads = list(table.fieldnames or ())
        if twice := [name for name in heads if heads.count(name) > 1]:
            raise DataError(f"{path} has several columns '{twice[0]}', expected each name once.")
        names = [name for name in heads if name not in IDS]
        rows: list[dict[str, Any]] = []

        def block(last: int) -> Block:
            ids = [next((row[name] for name in IDS if name in row), last - len(rows) + k) for k, row in enumerate(rows)]
            if wanted.by_name:
                return ids, list(rows)
            return ids, np.array([[float(row[name]) for name in names] for row in rows])

        count = 0
        for count, row in enumerate(table, 1):
            if None in row or None in row.values():
                raise DataError(f"{path}, line {table.line_num}: expected {len(heads)} values.")
            rows.append(row)
            if len(rows) == wanted.size:
                yield block(count)
                rows.clear()
        if rows:
            yield block(count)


def _lines(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Yield the lines of a text, without their ends; each is an example."""
    with path.open(encoding="utf-8-sig") as file:
        ids: list[int] = []
        lines: list[str] = []
        for number, line in enumerate(file):
            ids.append(number)
            lines.append(line.removesuffix("\n"))
            if len(lines) == wanted.size:
                yield list(ids), list(lines)
                ids.clear()
                lines.clear()
        if lines:
            yield ids, lines


def _images(path: Path) -> list[Path]:
    """Return the images of a folder, sorted by their names, but for hidden files such as "._0.png" of macOS."""
    return sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURES and each.name[0] != ".")


def _pictures(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Yield images, sorted by their names, as uint8 [B, H, W, C]."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("images need Pillow, which is not installed; pip install pillow.") from error
    files = _images(path)
    shape: tuple[int, ...] | None = None
    for first in range(0, len(files), wanted.size):
        part = files[first : first + wanted.size]
        images = []
        for file in part:
            with Image.open(file) as image:
                pixels = pixels_of(image, wanted.channels, str(file))
            shape = shape or pixels.shape
            if pixels.shape != shape:
                text = (
                    f"{file} has {pixels.shape[0]}×{pixels.shape[1]} pixels, and {files[0].name} {shape[0]}×{shape[1]}"
                )
                raise DataError(f"{text}; expected images of one size.")
            images.append(pixels)
        yield [file.name for file in part], np.stack(images)


def pixels_of(image: Any, channels: int, title: str) -> np.ndarray:
    """Return the pixels of an image of Pillow as uint8 [H, W, C].

    Args:
      channels: 1 for grey, 3 for RGB and 4 for RGBA; any other number gives RGB.
      title: of the image, for an error.

    Raises: DataError if its pixels have more than 8 bits.
    """
    if image.mode.startswith(("I", "F")):  # whose larger values Pillow would cut to 255
        raise DataError(f"{title} has pixels of more than 8 bits; write such images as an .npy file.")
    pixels = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "RGB")))
    return pixels[..., None] if pixels.ndim == 2 else pixels
