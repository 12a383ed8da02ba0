"""Image sets of the MNIST family: found on this machine or downloaded, and verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from framework.api import Batch, aligned
from framework.errors import ConfigError, DataError
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
      classes: names of the classes 0, 1, ….
    """

    name: str
    title: str
    files: tuple[IdxFile, ...]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]
    mean: float
    std: float
    classes: tuple[str, ...] = ()


class Images(NamedTuple):
    """Data set that threads are reading.

    Attributes:
      train: inputs, uint8 [N, H, W, 1], and targets, int32 [N]; aligned, and filled only once `ready` has returned.
      test: the same for testing.
      source: origin of the data, in words.
      ready: waits until all is read. Raises: DataError if a file is damaged.
      scale: converts the inputs of a batch to float32.
      facts: for users of a trained model: its preprocessor and the names of the classes.
    """

    train: Batch
    test: Batch
    source: str
    ready: Callable[[], None] = lambda: None
    scale: Callable[[Batch], Batch] = lambda batch: batch
    facts: Mapping[str, Any] = MappingProxyType({})


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
    shape = (*images.files[0].shape[1:], 1)

    def read(file: IdxFile, out: np.ndarray) -> None:
        out[...] = read_idx(find(folder, file) or folder / file.name, file).reshape(out.shape)

    def scale(batch: Batch) -> Batch:
        return {**batch, "inputs": scaled(batch["inputs"], mean, std)}

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
    facts = {
        "preprocess": {"name": "pixels", "shape": list(shape), "mean": mean, "std": std},
        "classes": list(images.classes),
    }
    return Images(train, test, f"{images.title}, {counts} images in {folder}", ready, scale, facts)


def pixels(shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> Callable[[Any], np.ndarray]:
    """Turn images of bytes, uint8 [B, H, W] or [B, H, W, C] from 0 to 255, into float32 [B, H, W, C], as in training.

    Args:
      shape: [H, W, C] of an image.
      mean: of the training pixels, scaled to [0, 1]; it is subtracted.
      std: standard deviation of the same, by which the difference is divided.

    Raises: ConfigError, when called, for images of another dtype or shape.
    """

    def preprocess(raw: Any) -> np.ndarray:
        return scaled(byte_images(raw, shape), mean, std)

    return preprocess


def scaled(images: Any, mean: float, std: float) -> Any:
    """Convert bytes from 0 to 255 to float32: scaled to [0, 1], then shifted and scaled by mean and std."""
    return images.astype(np.float32) * np.float32(1 / (255 * std)) - np.float32(mean / std)


def byte_images(raw: Any, shape: tuple[int, ...], largest: int = 255) -> np.ndarray:
    """Return images as uint8 [B, H, W, C]; the axis of a single channel may be missing.

    Args:
      raw: the images.
      shape: [H, W, C] of an image.
      largest: value of a pixel, for messages.

    Raises: ConfigError if they are of another dtype or shape.
    """
    expected = ", ".join(["B", *map(str, shape)])
    if isinstance(raw, Mapping):
        text = f"expected raw images as one array, uint8 [{expected}], found arrays by name: {', '.join(raw) or 'none'}"
        raise ConfigError(f"{text}; in a file, name it 'inputs'.")
    images = np.asarray(raw)
    if images.dtype != np.uint8:
        text = (
            f"expected raw images as uint8 [{expected}] from 0 to {largest}, found {images.dtype} {list(images.shape)}"
        )
        raise ConfigError(f"{text}; what is normalised already goes to the model itself, or with --prepared.")
    if images.ndim == len(shape) and shape[-1] == 1:
        images = images[..., None]
    if images.ndim != len(shape) + 1 or images.shape[1:] != shape:
        hint = "; add the axis of the batch: raw[None]" if np.shape(raw) in (shape, shape[:-1]) else ""
        raise ConfigError(f"expected raw images [{expected}], found {list(np.shape(raw))}{hint}.")
    return images


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
        fix = f"Put its four files into {cache}, or give their folder as data.root=FOLDER."
        text = f"{images.title} is not in {looked}, and cannot be downloaded ({error}). {fix}"
        raise UnavailableError(text) from error
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
