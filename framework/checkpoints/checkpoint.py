"""Checkpoints: a folder named after the step, with a manifest of digests beside the arrays that a store wrote."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from framework.api import PyTree, Store
from framework.checkpoints import shards
from framework.checkpoints.folder import clear, put_in_place
from framework.checkpoints.manifest import MANIFEST, NOTHING, check_leaves, read_manifest, write_manifest
from framework.checkpoints.npz import FILES
from framework.checkpoints.snapshot import as_asked, as_stored, is_shared, on_devices
from framework.distributed.coordination import Barrier
from framework.distributed.processes import index
from framework.errors import AccessError, FrameworkError, MismatchError, PluginError, StorageError, told
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.trees import leaves_by_path

T = TypeVar("T")

MISTAKES = (TypeError, AttributeError, NameError, ImportError, AssertionError)
"""Errors of code. Wrong bytes on a disk raise others."""

FAULTS = (*MISTAKES, MemoryError, jax.errors.JaxRuntimeError)
"""Errors of code, of the host's memory and of devices."""

ELSEWHERE = frozenset(
    (
        *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN, errno.EBUSY),
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTDOWN, errno.ENETDOWN),
    )
)
"""Reasons of an OSError that lie outside of the file: a permission, a limit of the process, a disk that is away."""


def commit(
    folder: Path, step: int, leaves: Mapping[str, Any], store: Store = FILES, about: Mapping[str, Any] = NOTHING
) -> Path:
    """Write arrays to `folder/<step>`, whole or not at all; they are saved when it returns.

    Leaves are stored by their path in the tree, each with its sha256, so that NamedTuples, tuples and custom nodes need
    no code to be read. The folder appears by one rename, after its files were flushed to the disk.

    Args:
      folder: of all checkpoints; it exists.
      step: names this one; a checkpoint of that name is replaced.
      leaves: arrays of JAX or NumPy by path, which nothing may change meanwhile.
      store: writes the arrays.
      about: what the manifest says beside: "run", the id of the run, and "window", which `Run.window` returned.

    Raises: StorageError if it cannot be written; an older checkpoint of that name is untouched then. Half-written
      files stay for `discard`, so that the error reaches its caller at once.
    """
    begin(folder, step)
    return conclude(folder, step, write(folder, step, leaves, store), store, about)


def commit_together(
    folder: Path,
    step: int,
    leaves: Mapping[str, Any],
    store: Store,
    about: Mapping[str, Any],
    barrier: Barrier,
    cancelled: Callable[[], bool],
) -> None:
    """Write this process's part, after process 0 has begun the checkpoint. In process 0, return once all is saved.

    It runs in a thread, beside steps of the devices, and speaks with the others through the key-value store only.

    Args:
      folder: of all checkpoints, on a file system that the processes share.
      step: names this one.
      leaves: as `snapshot` gives them in this process.
      store: writes the arrays.
      about: as in `commit`.
      barrier: made in all processes for this checkpoint.
      cancelled: tells process 0 to wait no longer for the others.

    Raises: in process 0, the first error of any process.
    """
    described: Mapping[str, Any] = {}
    try:
        if leaves:
            described = write(folder, step, leaves, store)
    except BaseException as error:
        barrier.tell(error)
        if index() == 0:
            raise
        return
    barrier.tell(bool(leaves))
    if index() == 0:
        _, *wrote = barrier.hear(cancelled)
        conclude(folder, step, described, store, about, [process for process, has in enumerate(wrote, 1) if has])


def begin(folder: Path, step: int) -> None:
    """Make the hidden folder that a checkpoint is written into.

    Raises: StorageError, also if the folder of all checkpoints, which is not made anew, was moved or deleted.
    """
    with _written(folder, step) as partial:
        clear(partial)
        partial.mkdir()


def write(folder: Path, step: int, leaves: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Write this process's part of a state, as `snapshot` gives it.

    Returns: its description for the manifest; a process other than 0 leaves that in a file for process 0.

    Raises: StorageError.
    """
    with _written(folder, step) as partial:
        described = {path: shards.describe(leaf) for path, leaf in leaves.items()}
        store.write(partial / shards.file_of(store.place, index()), shards.arrays(leaves))
        if index() > 0:
            write_manifest(partial, described, store.name, index())
    return described


def conclude(
    folder: Path,
    step: int,
    described: Mapping[str, Any],
    store: Store,
    about: Mapping[str, Any] = NOTHING,
    others: Sequence[int] = (),
) -> Path:
    """Describe the parts of all processes in one manifest, and give the checkpoint its name.

    Args:
      described: the part of process 0.
      about: as in `commit`.
      others: the processes that wrote as well.

    Raises: StorageError.
    """
    with _written(folder, step) as partial:
        parts = [described]
        for process in others:
            with _reading(partial, MANIFEST):
                parts.append(read_manifest(partial, process)["leaves"])
            (partial / shards.file_of(MANIFEST, process)).unlink()
        write_manifest(partial, shards.merge(parts), store.name, about=about)
        put_in_place(partial, folder / str(step))
    return folder / str(step)


def restore(path: Path, like: PyTree, whole: bool = False, run: str = "") -> PyTree:
    """Read a pytree back, with the store that wrote it.

    Args:
      path: `<folder>/<step>`.
      like: a tree of the same structure, or a part of it, whose leaves have the expected shape and dtype. A
        `jax.ShapeDtypeStruct` with a sharding is put together there, and on no single device.
      whole: refuse a checkpoint that holds more than `like`.
      run: refuse a checkpoint that carries the id of another run; "" takes any.

    Raises: MismatchError naming the leaves that are missing, or have another shape or dtype; StorageError, with the
      file and the reason, if the files are damaged; AccessError if what is wrong lies outside of them; ConfigError or
      PluginError if the store is not installed, or is one of a plugin that makes a mistake. Other errors of code and of
      memory (`FAULTS`) pass as they are.
    """
    leaves = leaves_by_path(like)
    wanted = {name: as_stored(leaf) for name, leaf in leaves.items()}
    with _reading(path, MANIFEST):
        manifest = read_manifest(path)
        if run and manifest.get("run", run) != run:
            raise StorageError(f"checkpoint {path} is of another run, '{manifest['run']}'; expected '{run}'.")
        described = manifest["leaves"]
        check_leaves(path, wanted, described, whole)
        cut = {name: shards.pieces_of(name, described[name]) for name in wanted if "pieces" in described[name]}
        digests = {name: described[name]["sha256"] for name in wanted if name not in cut}
    store = _store_of(manifest["store"], path)
    with _reading(path, store.place):
        arrays = _arrays(path, store, wanted, digests, cut)
    restored = [as_asked(arrays.pop(name), leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def restore_state(folder: Path, step: int, like: T, whole: bool = False, run: str = "") -> T:
    """Read the state of a step, or a part of it that has the leaf "step", as `restore` does.

    Raises: as `restore`; StorageError too if the checkpoint holds the state of another step.
    """
    state = restore(folder / str(step), like, whole, run)
    steps = jax.device_get(leaves_by_path(state)["step"])
    found = int(np.max(steps))  # of several members, a frozen one made fewer updates
    if found != step:
        raise StorageError(f"checkpoint {folder / str(step)} holds the state of step {found}.")
    return state


def read_newest(
    steps: Sequence[int], read: Callable[[int], T], reject: Callable[[int, StorageError], None]
) -> T | None:
    """Read the newest checkpoint that is not damaged; None if there is none.

    Args:
      steps: that were saved, oldest first.
      read: reads one, such as `restore_state`.
      reject: called with each damaged one, before an older one is tried.

    Raises: MismatchError if a sound one is of another model or optimizer; AccessError if one cannot be read for now.
    """
    for step in reversed(steps):
        try:
            return read(step)
        except (MismatchError, AccessError):
            raise
        except StorageError as error:
            reject(step, error)
    return None


@contextmanager
def _written(folder: Path, step: int) -> Iterator[Path]:
    """Yield the hidden folder of a checkpoint. Raises: StorageError for any OSError inside the context."""
    try:
        yield folder / f".{step}.partial"
    except OSError as error:
        by = f" by process {index()}" if index() else ""
        raise StorageError(
            f"checkpoint {folder / str(step)} cannot be written{by}: {error.strerror or error}."
        ) from error


@contextmanager
def _reading(path: Path, file: str) -> Iterator[None]:
    """Name the file that cannot be read, and tell damage from faults that are none of the file's.

    Damaged archives raise errors of zipfile, struct and zlib too.

    Raises: StorageError for damage; AccessError for reasons `ELSEWHERE`; errors of `FAULTS` as they are.
    """
    try:
        yield
    except (FrameworkError, *FAULTS):
        raise
    except Exception as error:
        text = f"checkpoint {path} cannot be read: {file}: {told(error)}"
        if isinstance(error, OSError) and error.errno in ELSEWHERE:
            raise AccessError(f"{text}; it may be sound, and stays as it is.") from error
        raise StorageError(text) from error


def _store_of(name: str, path: Path) -> Store:
    """Return the store of a name; "files" is always the built-in one.

    Raises: ConfigError or PluginError if it is not installed.
    """
    return FILES if name == FILES.name else Builder(discover()).named("stores", {"name": name}, f"checkpoint {path}")


def _arrays(
    path: Path,
    store: Store,
    wanted: Mapping[str, Any],
    digests: Mapping[str, str],
    cut: Mapping[str, Sequence[shards.Piece]],
) -> dict[str, Any]:
    """Read the leaves as they were saved; those of which this process must not hold the whole, one after the other.

    Args:
      digests: of the leaves that were written whole, by process 0.
      cut: the pieces of all others.

    Raises: ValueError if one is not as it was saved, and whatever the store raises.
    """

    def fetch(process: int, likes: Mapping[str, Any]) -> Mapping[str, Any]:
        file = shards.file_of(store.place, process)
        with _reading(path, file):
            try:
                return store.read(path / file, likes)
            except MISTAKES as error:
                if store is FILES:
                    raise
                raise PluginError(f"store '{store.name}' failed to read checkpoint {path}: {told(error)}") from error

    def whole(names: Sequence[str]) -> dict[str, Any]:
        likes = {name: wanted[name] for name in names}
        stored = fetch(0, likes)
        found = {name: shards.checked(name, likes, stored, digests[name]) for name in likes}
        return {name: _on_devices(array, wanted[name].sharding) for name, array in found.items()}

    arrays = whole([name for name in digests if not is_shared(wanted[name])])
    for name in [name for name in wanted if name not in arrays]:
        arrays |= {name: shards.assemble(name, wanted[name], cut[name], fetch)} if name in cut else whole([name])
    return arrays


def _on_devices(array: Any, sharding: jax.sharding.Sharding | None) -> Any:
    """Return an array on the devices of a sharding, of which some may belong to other processes."""
    if sharding is None or isinstance(array, jax.Array):
        return array
    return on_devices(array.shape, sharding, lambda part: array[part])
