"""One checkpoint that several processes write, each what it has of the state, and process 0 commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from framework.api import Store
from framework.checkpoints import checkpoint as checkpoints
from framework.distributed.coordination import Errand
from framework.distributed.processes import index


def commit(
    folder: Path, step: int, leaves: Mapping[str, Any], store: Store, errand: Errand, given_up: Callable[[], bool]
) -> None:
    """Write this process's part, after process 0 has begun the checkpoint; it returns in process 0 once all is saved.

    It runs in a thread, beside steps of the devices, and speaks with the others through the key-value store only.

    Args:
      folder: of all checkpoints, on a file system that the processes share.
      step: names this one.
      leaves: as `leaves.snapshot` gives them here.
      store: writes the arrays.
      errand: made in all processes for this checkpoint.
      given_up: whether nobody waits for processes any longer that have not said what they wrote.

    Raises: in process 0, what any process failed with; the others hear it from there.
    """
    described: Mapping[str, Any] = {}
    try:
        if leaves:
            described = checkpoints.write(folder, step, leaves, store)
    except BaseException as error:
        errand.tell(error)
        if index() == 0:
            raise
        return
    errand.tell(bool(leaves))
    if index() == 0:
        _, *wrote = errand.hear(given_up)
        others = [process for process, has in enumerate(wrote, 1) if has]
        checkpoints.conclude(folder, step, described, store, others)
