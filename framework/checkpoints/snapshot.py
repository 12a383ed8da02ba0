"""Snapshot of a state for saving: leaves by path, keys as numbers, copied to where no step changes them."""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import PyTree
from framework.arrays import ALIGNMENT
from framework.distributed.processes import index
from framework.trees import data_by_path, is_key

Box = tuple[tuple[int, int], ...]
"""A part of an array: (start, stop) along each axis."""


class LocalShards(NamedTuple):
    """The pieces that one process holds of an array that is cut over processes."""

    shape: tuple[int, ...]  # of the whole
    dtype: Any
    pieces: Mapping[Box, np.ndarray]


def size(tree: PyTree) -> int:
    """Return the bytes of a tree's leaves, which may be `jax.ShapeDtypeStruct`."""
    return sum(map(size_of, jax.tree.leaves(tree)))


def size_of(leaf: Any) -> int:
    """Return the bytes of a leaf on the disk."""
    like = as_stored(leaf)
    return math.prod(like.shape) * np.dtype(like.dtype).itemsize


def as_stored(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of a leaf on the disk, where keys are numbers, with its sharding if it has one."""
    like = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    sharding = None if is_key(leaf) or not isinstance(leaf, jax.ShapeDtypeStruct) else leaf.sharding
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)


def as_asked(stored: Any, leaf: Any) -> Any:
    """Return a stored array as the leaf that was asked for, in memory of its own."""
    array = stored if isinstance(stored, jax.Array) else _copied(stored)
    return jax.random.wrap_key_data(array, impl=_key_impl(leaf)) if is_key(leaf) else array


def on_devices(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding, values: Callable[[Any], np.ndarray]
) -> jax.Array:
    """Make an array on the devices of a sharding, each with its own part alone, in memory of its own.

    Args:
      values: returns the values of a part, which is a tuple of slices.
    """
    parts = sharding.addressable_devices_indices_map(shape).items()
    own = [_copied(values(part), device) for device, part in parts]
    return jax.make_array_from_single_device_arrays(shape, sharding, own)


def snapshot(tree: PyTree) -> dict[str, Any]:
    """Copy the leaves by path, so that later changes of the tree do not reach them.

    A leaf that one device holds whole is copied to the host. A leaf that is cut over devices stays cut, in memory of
    its own: on the host where the devices have such memory, beside the original on a CPU. Of a leaf that is cut over
    processes, each process copies the pieces whose first copy lies on its devices, as `LocalShards` on its host. Leaves
    that every process holds whole are copied by process 0 alone.
    """
    leaves = {path: leaf for path, leaf in data_by_path(tree).items() if index() == 0 or is_shared(leaf)}
    shared = {path: _first_copies(leaf) for path, leaf in leaves.items() if is_shared(leaf)}
    cut = {path: _beside(leaf) for path, leaf in leaves.items() if is_cut(leaf) and path not in shared}
    whole = {path: leaf for path, leaf in leaves.items() if path not in shared and path not in cut}
    # On a CPU, device_get returns the device's own memory, which the next step may write to.
    copies = jax.tree.map(np.array, jax.device_get({**whole, **shared}))
    copies |= {path: LocalShards(leaves[path].shape, leaves[path].dtype, copies[path]) for path in shared} | cut
    return {path: copies[path] for path in leaves}


def is_cut(leaf: Any) -> bool:
    """Return whether no device holds the whole of an array."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_replicated


def is_shared(leaf: Any) -> bool:
    """Return whether an array is cut over devices of more than one process, or a shape asks for that."""
    where = getattr(leaf, "sharding", None)
    return where is not None and not where.is_fully_addressable and not where.is_fully_replicated


def box_of(part: Sequence[slice], shape: Sequence[int]) -> Box:
    """Return the box of a part that JAX gives as slices."""
    return tuple(piece.indices(size)[:2] for piece, size in zip(part, shape, strict=True))


def digest(array: np.ndarray) -> str:
    """Return the sha256 of an array's bytes."""
    return hashlib.sha256(as_bytes(array).data).hexdigest()


def as_bytes(array: np.ndarray) -> np.ndarray:
    """View an array as uint8 [bytes]; NumPy's own format does not know bfloat16. A copy if it is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _beside(leaf: jax.Array) -> jax.Array:
    """Copy an array that is cut over the devices of this process, as it is cut."""
    if next(iter(leaf.devices())).platform == "cpu":
        return jax.numpy.copy(leaf)
    return jax.device_put(leaf, leaf.sharding.with_memory_kind("pinned_host"))


def _first_copies(leaf: jax.Array) -> dict[Box, jax.Array]:
    """Return the pieces of an array whose first copy is in this process."""
    own = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    return {box_of(shard.index, leaf.shape): shard.data for shard in own}


def _copied(values: np.ndarray | np.generic, device: Any = None) -> jax.Array:
    """Copy an array to a device, by default the first, without a program that JAX compiles for each shape.

    A CPU would use an aligned array in place, so the copy of one is made by NumPy.
    """
    array = np.asarray(values)
    is_aligned = array.ctypes.data % ALIGNMENT == 0
    copy = jax.device_put(np.array(array) if is_aligned else array, device).block_until_ready()
    gc.collect(0)  # frees the array, which JAX holds to the next collection
    return copy


def _key_impl(leaf: Any) -> str:
    """Return the kind of a key, also of a `jax.ShapeDtypeStruct`, which `jax.random.key_impl` refuses."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]
