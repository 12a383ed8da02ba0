"""Image sets of the MNIST family: found on this machine or downloaded, and verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framework.api import Batch, aligned
from framework.errors import DataError
from framework_data.download import UnavailableError, download
from framework_data.idx import IdxFile, read_idx


class ImageSet(NamedTuple):
    """Description of one data set of four IDX files.

    Attributes:
      name: name of its folder.
      title: its name, as its authors write it.
      files: training images, training labels, test images, test labels.
      mirrors: URLs to which file names are added.
      folders: folders in which packages of an operating system put it.
      mean: mean of the training pixels, scaled to [0, 1].
      std: standard deviation of the same.
    """

    name: str
    title: str
    files: tuple[IdxFile, ...]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]
    mean: float
    std: float


class Images(NamedTuple):
    """Data set that threads are reading.

    Attributes:
      train: inputs, uint8 [N, H, W, 1], and targets, int32 [N]; aligned, and filled only once `ready` has returned.
      test: the same for testing.
      source: origin of the data, in words.
      ready: waits until all is read. Raises: DataError if a file is damaged.
      scale: converts the inputs of a batch to float32.
    """

    train: Batch
    test: Batch
    source: str
    ready: Callable[[], None] = lambda: None
    scale: Callable[[Batch], Batch] = lambda batch: batch


def load_images(images: ImageSet, root: str | None, normalize: bool) -> Images:
    """Find a data set, and begin to read and verify it in threads.

    Pixels stay bytes until they are in a batch: they take a quarter of the memory, and of the time to gather them.

    Args:
      images: description of the data set.
      root: only folder to look in, or None for the usual folders and a download.
      normalize: shift and scale pixels to mean 0 and standard deviation 1, else to [0, 1].

    Raises: UnavailableError if the data set is not found and cannot be downloaded, DataError if it is incomplete.
    """
    folder = locate(images, root)
    mean, std = (images.mean, images.std) if normalize else (0.0, 1.0)

    def read(file: IdxFile, out: np.ndarray) -> None:
        out[...] = read_idx(find(folder, file) or folder / file.name, file).reshape(out.shape)

    def scale(batch: Batch) -> Batch:
        pixels = batch["inputs"].astype(np.float32)
        return {**batch, "inputs": pixels * np.float32(1 / (255 * std)) - np.float32(mean / std)}

    arrays = [_empty(file) for file in images.files]
    # zlib, sha256 and NumPy release the interpreter lock, so that the rest of a run is built meanwhile.
    pool = ThreadPoolExecutor(len(arrays))
    reading = [pool.submit(read, *each) for each in zip(images.files, arrays, strict=True)]
    pool.shutdown(wait=False)

    def ready() -> None:
        for each in reading:
            each.result()

    train, test = ({"inputs": inputs, "targets": targets} for inputs, targets in (arrays[:2], arrays[2:]))
    counts = " + ".join(f"{len(split['targets']):,}" for split in (train, test))
    return Images(train, test, f"{images.title}, {counts} images in {folder}", ready, scale)


def _empty(file: IdxFile) -> np.ndarray:
    return aligned(file.shape, np.int32) if len(file.shape) == 1 else aligned((*file.shape, 1), np.uint8)


def locate(images: ImageSet, root: str | None) -> Path:
    """Find the first folder that holds all files of a data set; else download them into the cache.

    Raises: DataError if a folder holds only some of the files, or `root` none; UnavailableError if no mirror has them.
    """
    cache = cache_folder() / images.name
    places = list(_under(root, images) if root is not None else _usual(images, cache))
    for place in places:
        missing = [file.name for file in images.files if find(place, file) is None]
        if not missing:
            return place
        if len(missing) < len(images.files) and place != cache:
            raise DataError(f"{place} lacks {', '.join(missing)}, expected all four files of {images.title}. Add them.")
    looked = ", ".join(map(str, places))
    if root is not None:
        raise DataError(f"{images.title} is not in data.root: looked for {images.files[0].name}[.gz] in {looked}.")
    try:
        download(images.files, images.mirrors, cache)
    except UnavailableError as error:
        fix = f"Put its four files into {cache}, or name their folder as data.root."
        raise UnavailableError(f"{images.title} is not in {looked}, nor to be downloaded ({error}). {fix}") from error
    return cache


def find(folder: Path, file: IdxFile) -> Path | None:
    """Find a file in a folder, plain or gzipped. A dangling link is found too: reading reports it as damage."""
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        if os.path.lexists(path):
            return path
    return None


def cache_folder() -> Path:
    """Return the folder for downloads: framework/ in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framework"


def _under(root: str, images: ImageSet) -> Iterator[Path]:
    yield Path(root).expanduser()
    yield Path(root).expanduser() / images.name


def _usual(images: ImageSet, cache: Path) -> Iterator[Path]:
    for folder in filter(None, os.environ.get("FRAMEWORK_DATA", "").split(os.pathsep)):
        yield Path(folder).expanduser() / images.name
    yield cache
    yield from map(Path, images.folders)
