"""Checkpoints: a folder named after the step, with a manifest of digests beside the arrays that a store wrote."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import PyTree, Store
from framework.build import Builder
from framework.documents import load_json
from framework.errors import FrameworkError, StorageError
from framework.files import FILES
from framework.leaves import as_asked, as_stored, data_by_path, digest, leaves_by_path
from framework.registry import discover


class MismatchError(StorageError):
    """A sound checkpoint of another tree than the one asked for."""


class Manifest(NamedTuple):
    """What a checkpoint says of itself."""

    store: str  # the name of the one that wrote the arrays
    leaves: Mapping[str, tuple[str, str]]  # by path: what it is, such as "float32[3, 2]", and its sha256


MANIFEST = "manifest.json"
NAMED = 3  # leaves that an error names; more make no line


def save(folder: Path, step: int, tree: PyTree, store: Store = FILES) -> Path:
    """Write a pytree of arrays to `folder/<step>`, whole or not at all; what stood there before is replaced.

    Raises: StorageError as `commit`; nothing of it stays then.
    """
    try:
        return commit(folder, step, data_by_path(tree), store)
    except StorageError:
        discard(folder)
        raise


def commit(folder: Path, step: int, leaves: Mapping[str, Any], store: Store = FILES) -> Path:
    """Write arrays to `folder/<step>`; once that returns, they are saved.

    Leaves are stored by their path in the tree, so that NamedTuples, tuples and custom nodes need no code to be read;
    each with its sha256. The folder appears by one rename, after its files were flushed to the disk.

    Args:
      folder: of all checkpoints.
      step: names this one.
      leaves: arrays of JAX or NumPy by path, which nothing may change meanwhile.
      store: writes the arrays.

    Raises: StorageError if it cannot be written; what stood there before is untouched then. What was written of
      it stays for `discard`, so that who waits for the error has it at once.
    """
    target, partial = folder / str(step), folder / f".{step}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        described = {path: _describe(leaf) for path, leaf in leaves.items()}
        store.write(partial / store.place, leaves)
        _write(partial / MANIFEST, json.dumps(_sealed(described, store.name), indent=1).encode())
        _swap(partial, target)
        _flush(folder)
    except OSError as error:
        raise StorageError(f"checkpoint {target} cannot be written: {error.strerror or error}.") from error
    return target


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


def discard(folder: Path) -> None:
    """Delete what a save that failed left half written: it takes the room of what can still be written."""
    for leftover in folder.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what a killed process left half written or half deleted."""
    discard(folder)
    for leftover in [*folder.glob(".*.trash"), *folder.glob(".*.former")]:
        shutil.rmtree(leftover, ignore_errors=True)


def restore(path: Path, like: PyTree, whole: bool = False) -> PyTree:
    """Read a pytree back, with the store that wrote it.

    Args:
      path: `<folder>/<step>`.
      like: a tree of the same structure, or a part of it, whose leaves have the expected shape and dtype. A
        `jax.ShapeDtypeStruct` with a sharding is put together there, and on no single device.
      whole: refuse a checkpoint that holds more than `like`.

    Raises: MismatchError naming the leaves that are missing, or have another shape or dtype; StorageError, with the
      file and the reason, if the files are damaged; ConfigError or PluginError if the store is not installed.
    """
    leaves = leaves_by_path(like)
    wanted = {name: as_stored(leaf) for name, leaf in leaves.items()}
    with _reading(path, MANIFEST):
        manifest = _read_manifest(path)
        _check_leaves(path, wanted, manifest.leaves, whole)
    store = _named(manifest.store, path)
    with _reading(path, store.place):
        stored = store.read(path / store.place, wanted)
        arrays = {name: _checked(name, like, stored[name], manifest.leaves[name][1]) for name, like in wanted.items()}
    restored = [as_asked(arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


@contextmanager
def _reading(path: Path, file: str) -> Iterator[None]:
    """Name the file that cannot be read; damaged archives raise errors of zipfile, struct and zlib too."""
    try:
        yield
    except FrameworkError:
        raise
    except Exception as error:
        raise StorageError(f"checkpoint {path} cannot be read: {file}: {type(error).__name__}: {error}") from error


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


def _sealed(leaves: Mapping[str, Any], store: str = FILES.name) -> dict[str, Any]:
    """A manifest with its own sha256, so that a damaged one is not taken for that of another model or store."""
    content = {"store": store, "leaves": leaves}
    return {**content, "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def _read_manifest(path: Path) -> Manifest:
    """What a checkpoint says of itself.

    Raises: ValueError if these are not the bytes that were written, and whatever JSON raises.
    """
    found = load_json(path / MANIFEST)
    if _sealed(found["leaves"], found["store"]) != found or not isinstance(found["store"], str):
        raise ValueError("its sha256 does not match")
    leaves = {name: (f"{entry['dtype']}{entry['shape']}", entry["sha256"]) for name, entry in found["leaves"].items()}
    return Manifest(found["store"], leaves)


def _named(name: str, path: Path) -> Store:
    """The store of a name; our own one whoever else claims it.

    Raises: ConfigError or PluginError if it is not installed.
    """
    return FILES if name == FILES.name else Builder(discover()).named("stores", {"name": name}, f"checkpoint {path}")


def _check_leaves(path: Path, wanted: Mapping[str, Any], found: Mapping[str, tuple[str, str]], whole: bool) -> None:
    """Compare what is asked for with what the manifest describes, before anything is allocated."""
    kinds = {name: f"{np.dtype(like.dtype)}{list(like.shape)}" for name, like in wanted.items()}
    wrong = [f"holds no '{name}'" for name in kinds if name not in found]
    wrong += [f"'{n}' is {found[n][0]}, expected {kinds[n]}" for n in kinds if n in found and found[n][0] != kinds[n]]
    wrong += [f"'{name}' has no place in this state" for name in found if whole and name not in kinds]
    if wrong:
        more = f"; {len(wrong) - NAMED} more differ" if len(wrong) > NAMED else ""
        listed = "; ".join(wrong[:NAMED])
        raise MismatchError(f"checkpoint {path}: {listed}{more}; was it saved with another model or optimizer?")


def _checked(name: str, like: Any, stored: Any, expected: str) -> Any:
    """A stored leaf, if it is what was asked for, to the bit.

    Raises: ValueError.
    """
    if stored.shape != like.shape or np.dtype(stored.dtype) != np.dtype(like.dtype):
        raise ValueError(f"'{name}' came back as {stored.dtype}{list(stored.shape)}")
    if digest(np.asarray(stored)) != expected:
        raise ValueError(f"the bytes of '{name}' are not those that were saved")
    return stored if like.sharding is None or isinstance(stored, jax.Array) else _placed(stored, like.sharding)


def _placed(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """On the devices of a sharding, each with its own part alone, also where some belong to other processes."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def _describe(leaf: Any) -> dict[str, Any]:
    array = np.asarray(leaf)
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest(array)}


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
