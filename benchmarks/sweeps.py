"""`python -m benchmarks.sweeps`: the cost of a sweep's ledger, and sweeps whose driver and workers are killed."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from framework.errors import StorageError
from framework.sweeps.folder import LedgerKind, ledger_of, new_ledger_of
from framework.sweeps.ledger import Ledger
from framework.testing import TINY

POINTS = "seed=range(0,12)"


def ledger(points: int, kind: LedgerKind) -> tuple[float, float]:
    """Take points through a whole life, with two reports each.

    Args:
      kind: of the ledger, as of `sweep.ledger`.

    Returns: milliseconds of the ledger for a point, and seconds of `framework sweep status` for all of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        with Ledger(new_ledger_of(Path(folder), kind), create=True) as opened:
            began = time.perf_counter()
            for number in range(points):
                words = [*TINY, f"seed={number}"]
                opened.add(number, "hash", {"seed": number}, words, f"runs/{number}")
                opened.claim(number, "worker")
                for step in (1, 2):
                    opened.report(number, "worker", step, {"eval/loss": 1.0, "eval/accuracy": 0.5})
                opened.finish(number, "worker", "done", step=2, scalars={"eval/loss": 1.0, "eval/accuracy": 0.5})
            each = (time.perf_counter() - began) / points
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "framework", "sweep", "status", folder], check=True, capture_output=True)
        return each * 1e3, time.perf_counter() - began


def memory(points: int, launcher: str, shown: int = 50) -> list[tuple[int, float, int]]:
    """Train a sweep of points of one step each in one process, and look at that process.

    Args:
      shown: number of points between two looks.

    Returns: at each look, the number of points that are done, the MiB in memory, and the number of open files.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sweep"
        words = [*TINY, "train.steps=1", f"seed=range(0,{points})", f"sweep.dir={folder}", f"launcher={launcher}"]
        process = subprocess.Popen([sys.executable, "-m", "framework", "-m", *words], stderr=subprocess.PIPE)
        assert process.stderr is not None
        seen, done = [], 0
        for line in process.stderr:
            done += b" done at step 1," in line
            if len(seen) <= done // shown and done:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
                seen.append((done, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files))
                print("{} points: {:.0f} MiB, {} open files".format(*seen[-1]), flush=True)
        process.stderr.close()
        if process.wait():
            raise RuntimeError(f"the sweep ended with exit code {process.returncode}")
        return seen


def sweep(folder: Path, launcher: str, kind: str) -> list[str]:
    """Return the command of the sweep that is killed."""
    words = [*TINY, "train.steps=300", "train.eval_every=50", "train.checkpoint_every=50", "callbacks=[checkpoint]"]
    places = [f"sweep.dir={folder}", f"sweep.ledger={kind}", f"launcher={launcher}"]
    return [sys.executable, "-m", "framework", "-m", *words, POINTS, *places]


def kill(folder: Path, kills: int, seed: int, command: Sequence[str]) -> int:
    """Run the sweep, and kill its driver or one of its workers at random moments; another driver follows a killed one.

    Returns: the number of kills until all points were done.
    """
    choice, done = random.Random(seed), 0
    with (folder.parent / "driver.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None or process.returncode != 0:
            if process.poll() is not None:
                process = subprocess.Popen(command, stdout=log, stderr=log)
            time.sleep(choice.uniform(0.3, 4.0))
            workers = _workers(folder)
            if done < kills:
                victim = choice.choice([process.pid, *workers])
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    done += 1
    return done


def _workers(folder: Path) -> list[int]:
    with suppress(StorageError), Ledger(ledger_of(folder)) as opened:
        return [int((point.owner or "").split()[1]) for point in opened.points("running")]
    return []


def digests(folder: Path) -> dict[int, object]:
    """Return the digests of the last state of each point.

    Raises: RuntimeError if a point is not done, or came to its end more than once.
    """
    with Ledger(ledger_of(folder)) as opened:
        points, ends = opened.points(), [event.number for event in opened.events() if event.kind == "done"]
    if sorted(ends) != [point.number for point in points] or any(point.state != "done" for point in points):
        raise RuntimeError(f"{folder}: ends {sorted(ends)}, states {[point.state for point in points]}")
    manifests = {point.number: folder / point.directory / "checkpoints" / "300" / "manifest.json" for point in points}
    return {number: json.loads(path.read_text())["leaves"] for number, path in manifests.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Measure the ledger, or kill sweeps until there were so many kills, and compare with one that was left alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description=__doc__)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=0, help="kills in all; 0 measures the ledger")
    parser.add_argument("--each", type=int, default=10, help="kills of one sweep")
    parser.add_argument("--launcher", choices=("processes", "turn", "vmapped"), default="processes")
    parser.add_argument("--ledger", choices=("database", "journal"), default="database")
    parser.add_argument("--memory", action="store_true", help="train the points, one step each, and watch the memory")
    arguments = parser.parse_args(words)
    if arguments.memory:
        memory(arguments.points, arguments.launcher)
        return
    if not arguments.kills:
        each, status = ledger(arguments.points, arguments.ledger)
        print(f"{arguments.ledger}: {each:.2f} ms a point; status of {arguments.points} points: {status:.2f} s")
        return
    with tempfile.TemporaryDirectory() as place:
        straight = Path(place) / "straight"
        subprocess.run(sweep(straight, arguments.launcher, arguments.ledger), check=True, capture_output=True)
        expected, killed, seed = digests(straight), 0, 0
        while killed < arguments.kills:
            folder = Path(place) / f"killed-{seed}"
            command = sweep(folder, arguments.launcher, arguments.ledger)
            killed += kill(folder, min(arguments.each, arguments.kills - killed), seed, command)
            if digests(folder) != expected and arguments.launcher != "vmapped":  # which is equal to rounding
                raise RuntimeError(f"{folder}: other states than without a kill")
            seed += 1
            same = ", the same states" if arguments.launcher != "vmapped" else ""
            print(f"{killed} kills, {seed} sweeps: no point lost, none ended twice{same}", flush=True)


if __name__ == "__main__":
    main()
