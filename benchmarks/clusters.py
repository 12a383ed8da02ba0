"""`python -m benchmarks.clusters`: sweeps on a local Slurm or Ray, whose daemons, jobs and driver are killed."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.sweeps import digests, sweep
from framework.errors import StorageError
from framework.sweeps.folder import ledger_of
from framework.sweeps.ledger import Ledger
from framework.sweeps.python_api import results
from tests import loopback_slurm

AWAY = (0.0, 6.0)
"""Seconds between the kill of a daemon and its start: the shortest, and the longest."""

PAUSE = (0.5, 5.0)
"""Seconds between two kills."""

PATIENCE = 900.0
"""Seconds that a sweep may take in all, so that one that hangs is told."""


class Victims(NamedTuple):
    """A cluster as the one who kills sees it.

    Attributes:
      words: for the command of the sweep.
      environment: of its driver.
      kills: by name, something that kills; it returns whether there was something to kill.
      tend: what the administrator of a cluster does from time to time.
    """

    words: tuple[str, ...]
    environment: dict[str, str]
    kills: dict[str, Callable[[random.Random], bool]]
    tend: Callable[[], None] = lambda: None


@contextmanager
def slurm(place: Path) -> Iterator[Victims]:
    """Run Slurm: its controller, the daemon of its node, and the two processes of a job.

    A controller that is killed may give the number of a job that runs to another, and Slurm drains a node with two jobs
    of one number, until its administrator resumes it.
    """
    with loopback_slurm.cluster(place / "cluster") as cluster:

        def daemon(name: str) -> Callable[[random.Random], bool]:
            def kill(choice: random.Random) -> bool:
                cluster.kill(name)
                time.sleep(choice.uniform(*AWAY))
                cluster.start(name)
                return True

            return kill

        def process(mark: str) -> Callable[[random.Random], bool]:
            return lambda choice: _kill([pid for pid, line in cluster.processes().items() if mark in line], choice)

        kills = {
            "slurmctld": daemon("slurmctld"),
            "slurmd": daemon("slurmd"),
            "job": process("-m submitit.core._submit"),
            "worker": process("-m framework sweep work"),
        }

        def tend() -> None:
            with suppress(AssertionError):
                if "drain" in cluster.call("sinfo", "--noheader", "--format=%T"):
                    cluster.call("scontrol", "update", f"NodeName={loopback_slurm.NODE}", "State=RESUME")

        yield Victims(("launcher.at_once=3",), cluster.environment, kills, tend)


@contextmanager
def ray(place: Path) -> Iterator[Victims]:
    """Run Ray: a head without processors, and a node with two, whose raylet is killed, or a process of its tasks."""
    cluster = import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes: list[Any] = []

    def node() -> None:
        nodes.append(cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20))

    def raylet(choice: random.Random) -> bool:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        time.sleep(choice.uniform(*AWAY))
        node()
        return True

    def process(mark: str) -> Callable[[random.Random], bool]:
        return lambda choice: _kill([pid for pid, line in _processes().items() if mark in line], choice)

    try:
        node()
        kills = {"raylet": raylet, "task": process("ray::point"), "worker": process(f"sweep work {place}")}
        yield Victims((f"launcher.address={cluster.address}",), dict(os.environ), kills)
    finally:
        cluster.shutdown()


CLUSTERS = {"slurm": slurm, "ray": ray}


def table(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the closing table, without the time that they took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in results(folder).records()]


def _processes() -> dict[int, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def _kill(found: Sequence[int], choice: random.Random) -> bool:
    with suppress(ProcessLookupError):
        if found:
            os.kill(choice.choice(sorted(found)), signal.SIGKILL)
            return True
    return False


def killed(folder: Path, command: Sequence[str], victims: Victims, kills: int, choice: random.Random) -> Counter[str]:
    """Run a sweep to its end while something is killed at random moments; a driver that ended is followed by another.

    Returns: how often each was killed.

    Raises: RuntimeError if the sweep does not come to its end.
    """
    until, done = time.monotonic() + PATIENCE, Counter[str]()
    with (folder.parent / f"{folder.name}.log").open("ab") as log:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, env=victims.environment, stdout=log, stderr=log, start_new_session=True)

        process = start()
        while process.poll() is None or process.returncode != 0:
            if process.poll() is not None:
                process = start()
            if time.monotonic() > until:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise RuntimeError(f"{folder} did not come to its end within {PATIENCE:g} s")
            time.sleep(choice.uniform(*PAUSE))
            victims.tend()
            if done.total() < kills and _runs(folder):
                victim = choice.choice(["driver", *victims.kills])
                if victim == "driver":
                    process.kill()
                    process.wait()
                    done[victim] += 1
                else:
                    done[victim] += victims.kills[victim](choice)
    return done


def _runs(folder: Path) -> bool:
    """Tell whether a point is at work: a kill in between hits little."""
    with suppress(StorageError), Ledger(ledger_of(folder)) as ledger:
        return bool(ledger.points("running"))
    return False


def main(words: Sequence[str] | None = None) -> None:
    """Kill until there were so many kills, and compare each sweep with one that was left alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clusters", description=__doc__)
    parser.add_argument("--launcher", choices=CLUSTERS, required=True)
    parser.add_argument("--kills", type=int, default=20, help="kills in all")
    parser.add_argument("--each", type=int, default=8, help="kills of one sweep")
    parser.add_argument("--ledger", choices=("database", "journal"), default="database")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", metavar="FOLDER", help="folder that keeps the sweeps and the logs")
    arguments = parser.parse_args(words)
    os.environ.update(JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(arguments.keep or temporary)
        place.mkdir(exist_ok=True)
        straight = place / "straight"
        subprocess.run(sweep(straight, "turn", arguments.ledger), check=True, capture_output=True)
        expected, done, number = (digests(straight), table(straight)), Counter[str](), 0
        with CLUSTERS[arguments.launcher](place) as victims:
            while done.total() < arguments.kills:
                folder = place / f"killed-{number}"
                most = min(arguments.each, arguments.kills - done.total())
                command = [*sweep(folder, arguments.launcher, arguments.ledger), *victims.words]
                done += killed(folder, command, victims, most, random.Random(arguments.seed + number))
                if (digests(folder), table(folder)) != expected:
                    raise RuntimeError(f"{folder}: other states than without a kill")
                number += 1
                counts = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
                same = "no point lost, none ended twice, the same table and states"
                print(f"{done.total()} kills ({counts}), {number} sweeps: {same}", flush=True)


if __name__ == "__main__":
    main()
