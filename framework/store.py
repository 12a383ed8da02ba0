"""Checkpoints as plain files: one array file and one manifest in a folder named after the step."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framework.api import PyTree
from framework.documents import load_json
from framework.errors import StorageError


class MismatchError(StorageError):
    """A sound checkpoint of another tree than the one asked for."""


ARRAYS, MANIFEST = "arrays.npz", "manifest.json"
NPY_HEADER = 1 << 10  # bytes; more than NumPy writes before the bytes of an array of bytes


def save(folder: Path, step: int, tree: PyTree) -> Path:
    """Write a pytree of arrays to `folder/<step>`, whole or not at all.

    Leaves are stored by their path in the tree, so that NamedTuples, tuples and custom nodes need no code to be read;
    each with its sha256. The folder appears by one rename, after its files were flushed to the disk.

    Raises: StorageError if it cannot be written; what stood there before is untouched then.
    """
    target, partial = folder / str(step), folder / f".{step}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        arrays = {path: _to_numpy(leaf) for path, leaf in leaves_by_path(tree).items()}
        contents: dict[str, Any] = {path: _bytes(array) for path, array in arrays.items()}
        _write(partial / ARRAYS, lambda file: np.savez(file, **contents))
        manifest = _sealed({path: _describe(array) for path, array in arrays.items()})
        _write(partial / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=1).encode()))
        _swap(partial, target)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)  # it takes the room of what can still be written
        raise StorageError(f"checkpoint {target} cannot be written: {error.strerror or error}.") from error
    return target


def size(tree: PyTree) -> int:
    """Bytes of a tree's leaves, which may be shapes."""
    return sum(map(_size, jax.tree.leaves(tree)))


def steps(folder: Path) -> list[int]:
    """The steps that were saved, oldest first; a folder has its name only once it is whole."""
    names = [entry.name for entry in folder.glob("*") if re.fullmatch("0|[1-9][0-9]{0,17}", entry.name)]
    return sorted(int(name) for name in names if (folder / name).is_dir())


def remove(path: Path) -> None:
    """Delete a checkpoint: first its name, by which it would be found, then its files."""
    trash = path.with_name(f".{path.name}.trash")
    shutil.rmtree(trash, ignore_errors=True)
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint so that it is not found again; it is kept for whoever wants to look at it."""
    target = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(target, ignore_errors=True)
    path.rename(target)


def sweep(folder: Path) -> None:
    """Delete what a killed process left half written or half deleted."""
    for leftover in [*folder.glob(".*.partial"), *folder.glob(".*.trash"), *folder.glob(".*.former")]:
        shutil.rmtree(leftover, ignore_errors=True)


def restore(path: Path, like: PyTree) -> PyTree:
    """Read a pytree back.

    Args:
      path: `<folder>/<step>`.
      like: a tree of the same structure, or a part of it, whose leaves have the expected shape and dtype.

    Raises: MismatchError if a leaf is missing or has another shape or dtype; StorageError if the files are damaged.
    """
    expected = leaves_by_path(like)
    try:
        manifest = _read_manifest(path)
        _check_leaves(path, expected, manifest)
        stored = _read_arrays(path / ARRAYS, {name: _size(leaf) for name, leaf in expected.items()})
    except MismatchError:
        raise
    except Exception as error:  # damaged archives raise errors of zipfile, struct and zlib too
        raise StorageError(f"checkpoint {path} cannot be read: {type(error).__name__}: {error}") from error
    leaves = [_checked(path, name, leaf, stored[name], manifest[name][1]) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Leaves by readable path, such as "params/0_Conv/W", in the tree's order.

    Raises: StorageError if two have the same, as those of {"a": {"b": …}, "a/b": …} would.
    """
    flat, _ = jax.tree.flatten_with_path(tree)
    leaves: dict[str, Any] = {}
    for keys, leaf in flat:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in leaves:
            raise StorageError(f"two arrays of the state have the path '{path}'; rename the key that holds a '/'.")
        leaves[path] = leaf if hasattr(leaf, "dtype") else jax.numpy.asarray(leaf)
    return leaves


def _swap(partial: Path, target: Path) -> None:
    """Put a finished folder in the place of another, which goes only once that has worked."""
    former = partial.with_name(f"{partial.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if not target.exists():
        partial.rename(target)
        return
    target.rename(former)
    try:
        partial.rename(target)
    except OSError:
        former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _sealed(leaves: dict[str, Any]) -> dict[str, Any]:
    """A manifest with its own sha256, so that a damaged one is not taken for that of another model."""
    return {"leaves": leaves, "sha256": hashlib.sha256(json.dumps(leaves).encode()).hexdigest()}


def _read_manifest(path: Path) -> dict[str, tuple[str, str]]:
    """For each leaf, what it is and its sha256.

    Raises: ValueError if these are not the bytes that were written, and whatever JSON raises.
    """
    manifest = load_json(path / MANIFEST)
    if _sealed(manifest["leaves"]) != manifest:
        raise ValueError("the manifest's sha256 does not match")
    return {name: (f"{entry['dtype']}{entry['shape']}", entry["sha256"]) for name, entry in manifest["leaves"].items()}


def _check_leaves(path: Path, expected: Mapping[str, Any], manifest: Mapping[str, tuple[str, str]]) -> None:
    """Compare what is asked for with what the manifest describes, before anything is allocated."""
    for name, leaf in expected.items():
        if name not in manifest:
            raise MismatchError(f"checkpoint {path} holds no '{name}'; was it saved with another model or optimizer?")
        like = _as_stored(leaf)
        wanted, (found, _) = f"{np.dtype(like.dtype)}{list(like.shape)}", manifest[name]
        if wanted != found:
            raise MismatchError(f"checkpoint {path}: '{name}' is {found}, expected {wanted}.")


def _read_arrays(path: Path, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The bytes of each leaf, of which no more is read than the leaf takes, whatever the archive claims.

    Raises: ValueError if a member is compressed or of another size, and whatever zipfile and NumPy raise.
    """
    stored = {}
    with zipfile.ZipFile(path) as archive:
        for name, size in sizes.items():
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type != zipfile.ZIP_STORED or not size < member.file_size < size + NPY_HEADER:
                raise ValueError(f"'{name}' takes {member.file_size} bytes, expected {size} and a header")
            with archive.open(member) as file:
                content = file.read(size + NPY_HEADER)
            stored[name] = np.frombuffer(content, np.uint8, offset=len(content) - size)
    return stored


def _checked(path: Path, name: str, leaf: Any, stored: np.ndarray, digest: str) -> Any:
    """A stored leaf as the array that `leaf` asks for."""
    if hashlib.sha256(stored.data).hexdigest() != digest:
        raise StorageError(f"checkpoint {path}: the bytes of '{name}' are not those that were saved.")
    like = _as_stored(leaf)
    array = jax.numpy.asarray(stored.view(np.dtype(like.dtype)).reshape(like.shape))
    return jax.random.wrap_key_data(array, impl=_key_impl(leaf)) if _is_key(leaf) else array


def _size(leaf: Any) -> int:
    """Bytes of a leaf on the disk."""
    like = _as_stored(leaf)
    return math.prod(like.shape) * np.dtype(like.dtype).itemsize


def _as_stored(leaf: Any) -> Any:
    """Shape and dtype of a leaf on the disk, where keys are numbers."""
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> str:
    """The kind of a key, also of one that is only a shape and a dtype, which `jax.random.key_impl` refuses."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]


def _to_numpy(leaf: Any) -> np.ndarray:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.ascontiguousarray(jax.device_get(leaf)).reshape(leaf.shape)


def _bytes(array: np.ndarray) -> np.ndarray:
    """As bytes: NumPy's own format does not know bfloat16 and its kin."""
    return np.frombuffer(array.tobytes(), np.uint8)


def _describe(array: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}


def _write(path: Path, fill: Any) -> None:
    with path.open("wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
