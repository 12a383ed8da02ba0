"""`python -m benchmarks.members`: K seeds as one program, by a sweep, and as a process each."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.images import find_mnist
from benchmarks.machine import LIMIT, Load, await_quiet
from benchmarks.trial import ROOT
from benchmarks.workloads import WORKLOADS

AT_ONCE = 2
"""Processes side by side, where each run has its own."""


class Trial(NamedTuple):
    """All runs, once.

    Attributes:
      seconds: from the start of the first process to the end of the last one.
      speed: median of the logged examples a second, those of all members together.
      foreign: share of the machine that others took meanwhile.
    """

    seconds: float
    speed: float
    foreign: float


def commands(way: str, members: int, words: Sequence[str]) -> list[list[str]]:
    """The processes that train all members in one of the ways."""
    command = [sys.executable, "-m", "framework", *words]
    if way == "processes":
        return [[*command, f"seed={seed}"] for seed in range(members)]
    if way in ("turn", "auto"):
        root = next(word for word in words if word.startswith("run.root="))
        return [[*command, "-m", "seed=" + ",".join(map(str, range(members))), f"launcher={way}", f"sweep.{root[4:]}"]]
    order = ["strategy.order=shared"] if way == "vmapped-shared" else []
    return [[*command, "strategy=vmapped", f"strategy.members={members}", *order]]


WAYS = ("vmapped", "vmapped-shared", "auto", "turn", "processes")


def launch(way: str, members: int, words: Sequence[str], warm: bool) -> Trial:
    """Train all members in one of the ways; programs are compiled anew, and once for each way.

    Args:
      warm: whether they were compiled before, by a first process that does not count.

    Raises: RuntimeError with the end of what a process said, if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
        places = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}

        def run(command: list[str]) -> None:
            env = os.environ | places  # and in a folder that goes: Hydra leaves a file of a sweep where it is called
            done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{way} failed:\n{done.stderr[-3000:]}")

        if warm:
            run(commands(way, members, [*words, f"run.root={folder}/first"])[0])
        load, began = Load(), time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(run, commands(way, members, [*words, f"run.root={folder}/runs"])))
        seconds, foreign = time.monotonic() - began, load.foreign()
        return Trial(seconds, _speed(Path(folder, "runs")), foreign)


def _speed(root: Path) -> float:
    lines = [line for path in root.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return statistics.median(r["perf/examples_per_second"] for r in records if "perf/examples_per_second" in r)


def summarise(trials: Sequence[dict[str, Trial]]) -> list[dict[str, Any]]:
    """One row for each way: medians, and ratios to `vmapped` within a round, of clean rounds where there are any."""
    clean = [round for round in trials if not any(trial.foreign > LIMIT for trial in round.values())]
    kept = clean or trials
    return [
        {
            "way": way,
            "seconds": statistics.median(round[way].seconds for round in kept),
            "examples_per_second": statistics.median(round[way].speed for round in kept),
            "time_over_vmapped": statistics.median(round[way].seconds / round["vmapped"].seconds for round in kept),
            "vmapped_speed_over_it": statistics.median(round["vmapped"].speed / round[way].speed for round in kept),
            "clean": len(clean),
        }
        for way in kept[0]
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ["way", "s in all", "examples/s", "its time / vmapped", "speed of vmapped / its", "clean"]
    cells = [head, ["---"] * len(head)]
    for row in rows:
        ratios = [f"{row['time_over_vmapped']:.2f}", f"{row['vmapped_speed_over_it']:.2f}"]
        cells.append(
            [row["way"], f"{row['seconds']:.1f}", f"{row['examples_per_second']:,.0f}", *ratios, str(row["clean"])]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def main(words: Sequence[str] | None = None) -> None:
    """Measure rounds of all ways and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.members", description=__doc__)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, default=468, help="of each run; 468 are an epoch of MNIST")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=10, help="seconds to wait for a quiet machine each time")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS), metavar="vmapped,turn,…")
    parser.add_argument("--warm", action="store_true", help="with programs that lie in the compilation cache already")
    parser.add_argument("--synthetic", type=int, default=0, metavar="N", help="use N random images, not MNIST")
    arguments = parser.parse_args(words)
    synthetic = arguments.synthetic or (0 if find_mnist() else 60_000)
    data = ["data=synthetic", f"data.examples={synthetic}", "data.shape=[28,28,1]"] if synthetic else ["data=mnist"]
    overrides = [*WORKLOADS["w3"].model, *data, f"train.steps={arguments.steps}", "train.eval_every=0"]
    trials: list[dict[str, Trial]] = []
    for _ in range(arguments.rounds):
        round: dict[str, Trial] = {}
        for way in arguments.ways:
            await_quiet(arguments.patience)
            round[way] = launch(way, arguments.members, overrides, arguments.warm)
            print(f"{way}: {round[way].seconds:.1f} s, others {round[way].foreign:.0%}", file=sys.stderr)
        trials.append(round)
    print(table(summarise(trials)))


if __name__ == "__main__":
    main()
