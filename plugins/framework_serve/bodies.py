"""Bodies of requests as raw inputs: JSON, .npy files and images. They come from strangers, and are trusted in nothing.

A body is refused before memory is taken for what its header promises.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.errors import ConfigError, FrameworkError, plain, told
from framework.trained.blocks import count
from framework.trained.inputs import Expected

if TYPE_CHECKING:
    from framework.api import PyTree
    from framework.trained.model_function import Trained

JSON, NPY = "application/json", "application/x-npy"
IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG"}

PIXELS = 2**24
"""Pixels of an image at most; a small file can claim many more, which would be unpacked."""


class RequestError(Exception):
    """A request that cannot be answered.

    Attributes:
      status: of HTTP.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(" ".join(text.split()))
        self.status = status


def inputs_of(model: Trained, content: bytes, kind: str, is_prepared: bool, rows: int) -> PyTree:
    """Return the inputs [n, ...] that a body holds, as the model takes them.

    Args:
      kind: of the content, such as "application/json".
      is_prepared: the inputs are preprocessed already, as all are where the data name no preprocessor.
      rows: examples at most.

    Raises: RequestError with 415 for another kind, 413 for too many examples, and 400 for all else that does not fit.
    """
    is_raw = model.is_preprocessed and not is_prepared
    try:
        given = _read(model, content, kind, is_raw)
        if is_raw and _length(given) > rows:  # before each of them is preprocessed
            raise RequestError(413, _too_many(_length(given), rows))
        inputs = _preprocessed(model, given) if is_raw else model.checked(given)
    except FrameworkError as error:
        raise RequestError(400, str(error)) from error
    if not 0 < count(inputs) <= rows:
        raise RequestError(*(413, _too_many(count(inputs), rows)) if count(inputs) else (400, "found no examples."))
    floats = [leaf for leaf in jax.tree.leaves(inputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in floats):
        raise RequestError(400, "expected finite numbers, found NaN or infinity.")
    return inputs


def _too_many(found: int, rows: int) -> str:
    return f"found {found:,} examples, expected {rows:,} or fewer in a request; send several."


def _read(model: Trained, content: bytes, kind: str, is_raw: bool) -> Any:
    try:
        if kind == JSON:
            return _json(content, None if is_raw else model.inputs)
        if kind == NPY:
            return _array(content)
        if kind in IMAGES and is_raw:
            return _image(content, kind, model)
    except RequestError:
        raise
    except Exception as error:  # parsers raise many kinds for bytes that are no document of theirs
        reason = plain(told(error)).rstrip(".")
        raise RequestError(400, f"the body cannot be read as {kind}: {reason}.") from error
    known = ", ".join([JSON, NPY, *(IMAGES if is_raw else ())])
    raise RequestError(415, f"expected a content-type of {known}, found '{kind[:80]}'.")


def _json(content: bytes, expected: PyTree | None) -> Any:
    """Return the entry "inputs": numbers as arrays, and texts and rows of tables as they are.

    Args:
      expected: what the model takes, for inputs that are preprocessed already; JSON does not know floats from integers.
    """

    def refuse(word: str) -> float:
        raise RequestError(400, f"expected finite numbers, found {word}.")

    found = json.loads(content, parse_constant=refuse)
    if not isinstance(found, dict) or list(found) != ["inputs"]:
        raise RequestError(400, 'expected one JSON object {"inputs": …}.')
    given = found["inputs"]
    if expected is not None:
        return _arrays(given, expected)
    if isinstance(given, Mapping) or (isinstance(given, list) and given and isinstance(given[0], str | Mapping)):
        return given
    return np.asarray(given)


def _arrays(given: Any, expected: PyTree) -> PyTree:
    if isinstance(expected, Expected):
        is_real = expected.dtype is None or jnp.issubdtype(expected.dtype, jnp.floating)
        return np.asarray(given, np.float64 if is_real else None)
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        return {name: _arrays(part, expected[name]) if name in expected else part for name, part in given.items()}
    if isinstance(expected, tuple) and isinstance(given, list) and len(given) == len(expected):
        return tuple(map(_arrays, given, expected))
    raise RequestError(400, f"expected inputs of {len(expected)} parts, found another structure; GET / shows them.")


def _array(content: bytes) -> np.ndarray:
    """Return the array of an .npy file whose header promises no more than the file has."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise RequestError(400, f"expected an .npy file of version 1.0 or 2.0, found {version[0]}.{version[1]}.")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.kind not in "biuf":
        raise RequestError(400, f"expected an array of numbers, found dtype {dtype}.")
    held = len(content) - file.tell()
    if (promised := math.prod(shape) * dtype.itemsize) != held:
        raise RequestError(400, f"expected {promised:,} bytes after the header of the .npy file, found {held:,}.")
    array = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _image(content: bytes, kind: str, model: Trained) -> np.ndarray:
    """Return one image as uint8 [1, H, W, C]."""
    from PIL import Image

    from framework_after.predict import channels_of
    from framework_after.readers import pixels_of

    with Image.open(io.BytesIO(content), formats=[IMAGES[kind]]) as image:
        if image.width * image.height > PIXELS:
            raise RequestError(413, f"found {image.width:,}×{image.height:,} pixels, expected {PIXELS:,} or fewer.")
        return pixels_of(image, channels_of(model), "the image")[None]


def _length(raw: Any) -> int:
    """Return the number of examples of raw inputs; 0 where only the preprocessor knows it."""
    if isinstance(raw, Mapping):
        return max((len(part) for part in raw.values() if isinstance(part, list)), default=0)
    return len(raw) if np.ndim(raw) else 0


def _preprocessed(model: Trained, raw: Any) -> PyTree:
    """Preprocess raw inputs; whole numbers of JSON from 0 to 255 may stand for the bytes of images."""
    try:
        return model.preprocess(raw)
    except ConfigError:
        is_whole = isinstance(raw, np.ndarray) and raw.dtype == np.int64 and raw.size
        if not is_whole or raw.min() < 0 or raw.max() > np.iinfo(np.uint8).max:
            raise
        return model.preprocess(raw.astype(np.uint8))
