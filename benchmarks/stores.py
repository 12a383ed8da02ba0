"""`python -m benchmarks.stores [MB]`: what saves and restores cost with each store, and what it notices by itself."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Store
from framework.checkpoints.checkpoint import commit, restore
from framework.checkpoints.npz import FILES
from framework.checkpoints.snapshot import as_stored, snapshot
from framework.trees import data_by_path
from framework_orbax.store import orbax

ROUNDS, LEAVES, FLIPS = 5, 12, 200


def main(megabytes: int) -> None:
    """Print medians in milliseconds, bytes on the disk, and of how many flipped bits the store alone told."""
    each = megabytes * 1_000_000 // 4 // LEAVES
    state = {f"params/{i}/W": jax.random.normal(jax.random.key(i), (each,)) for i in range(LEAVES)}
    print(f"copy of {megabytes} MB off the device: {_median(lambda: snapshot(state)):.0f} ms")
    for store in (FILES, orbax()):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            commit(folder, 1, data_by_path(state), store)  # imports what it needs
            save = _median(lambda folder=folder, store=store: commit(folder, 1, data_by_path(state), store))
            read = _median(lambda folder=folder: restore(folder / "1", state))
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            print(f"{store.name}: save {save:.0f} ms, restore {read:.0f} ms, {size:,} bytes")
        print(f"{store.name}: {_noticed(store)}")


def _noticed(store: Store) -> str:
    """Read a small state back without our digests, after each of many flipped bits in its largest file."""
    leaves = data_by_path({"W": jnp.arange(4096.0)})
    told = wrong = 0
    with tempfile.TemporaryDirectory() as name:
        place = commit(Path(name), 1, leaves, store) / store.place
        files = [place, *place.rglob("*")]
        largest = max((file for file in files if file.is_file()), key=lambda file: file.stat().st_size)
        whole = largest.read_bytes()
        for at in np.random.default_rng(0).integers(len(whole), size=FLIPS):
            largest.write_bytes(bytes([*whole[:at], whole[at] ^ 1 << int(at) % 8, *whole[at + 1 :]]))
            try:
                found: Any = store.read(place, {path: as_stored(leaf) for path, leaf in leaves.items()})["W"]
                wrong += np.asarray(found).tobytes() != np.asarray(leaves["W"]).tobytes()
            except Exception:  # whatever its libraries raise
                told += 1
    return f"of {FLIPS} flipped bits in its largest file it told {told}, and gave wrong numbers for {wrong}"


def _median(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        os.sync()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
