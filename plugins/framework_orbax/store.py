"""Orbax as a store of checkpoints: arrays that are cut over devices are written and read back in their pieces."""

from __future__ import annotations

import gc
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framework.api import Store
from framework.errors import ConfigError


def orbax() -> Store:
    """Store arrays in a folder, `arrays`, in Orbax's layout (OCDBT); needs `pip install framework[orbax]`.

    Raises: ConfigError if Orbax is not installed.
    """
    # Not imported here: that takes a second, for which only runs should pay that save or restore with it.
    if importlib.util.find_spec("orbax") is None or importlib.util.find_spec("orbax.checkpoint") is None:
        raise ConfigError(
            "orbax-checkpoint is not installed, which writes and reads this; pip install framework[orbax]."
        )
    # Orbax writes in process 0 alone, or with collectives of its own, which would disturb those of the steps.
    return Store("orbax", "arrays", write, read, everywhere=False)


def write(path: Path, leaves: Mapping[str, Any]) -> None:
    """Write a folder and flush it to the disk.

    Raises: OSError, also for errors of other types by which Orbax or TensorStore report a failed write.
    """
    from orbax.checkpoint import args

    full = {name: leaf for name, leaf in leaves.items() if leaf.size}  # Orbax refuses arrays without elements
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path.absolute(), args=args.PyTreeSave(full))
    except OSError:
        raise
    except (ValueError, RuntimeError) as error:  # TensorStore's errors, whose first word is the kind
        raise OSError(f"{type(error).__name__}: {error}") from error
    _flush(path)


def read(path: Path, like: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Read some of the leaves: those with a sharding within this process straight to its devices, others to the host.

    Nothing is cast or padded: dtype and shape are those that were written.

    Raises: ValueError with the message of Orbax or TensorStore for a damaged folder; PermissionError; MemoryError.
    """
    from orbax.checkpoint import RestoreArgs, args

    full = {name: leaf for name, leaf in like.items() if math.prod(leaf.shape)}
    wanted = {name: _restore_args(leaf, RestoreArgs) for name, leaf in full.items()}
    given = args.PyTreeRestore(item=full, restore_args=wanted, partial_restore=True)
    with _quietly():
        found, reason = _restored(path, given) if full else ({}, "")
        if reason:
            gc.collect()
    if reason:
        raise ValueError(reason)
    return {name: found[name] if name in full else np.zeros(leaf.shape, leaf.dtype) for name, leaf in like.items()}


def _restored(path: Path, given: Any) -> tuple[Any, str]:
    """Return the arrays, or the reason why Orbax cannot read them; then the error and its reads can be collected."""
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), args=given), ""
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        return {}, f"{type(error).__name__}: {error}"


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence asyncio, which would report in pages the reads that Orbax abandons at a damaged file."""
    logger, hook = logging.getLogger("asyncio"), sys.unraisablehook
    was = logger.disabled
    logger.disabled, sys.unraisablehook = True, lambda _: None
    try:
        yield
    finally:
        logger.disabled, sys.unraisablehook = was, hook


def _restore_args(leaf: jax.ShapeDtypeStruct, plain: Any) -> Any:
    from orbax.checkpoint import ArrayRestoreArgs

    if leaf.sharding is None or not leaf.sharding.is_fully_addressable:
        return plain(restore_type=np.ndarray)
    return ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, strict=True)


def _checkpointer() -> Any:
    """Return Orbax's synchronous checkpointer for this process alone; it is called in a thread, which waits for it."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint.options import MultiprocessingOptions

    own = jax.process_index()
    alone = MultiprocessingOptions(primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"own{own}")
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _flush(path: Path) -> None:
    """Flush all files and folders: Orbax flushes the arrays, but neither its metadata nor its folders."""
    for place in [*path.rglob("*"), path]:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
