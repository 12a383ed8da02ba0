"""One trial in its own process: `python -m benchmarks.trial SPEC`; SPEC is JSON, and names a file for the result."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contenders import CONTENDERS
from benchmarks.machine import LIMIT, Load
from benchmarks.workloads import WORKLOADS, Plan

ROOT = Path(__file__).resolve().parents[1]


class Trial(NamedTuple):
    """The measurements of one process.

    Attributes:
      measure: "steady" or "start".
      round: of the interleaved rounds.
      foreign: share of the machine that others took while the process lived.
      value: milliseconds a step after the warm-up, or seconds from the start of the process to its first finished step.
      memory: peak resident set of the process in MB.
    """

    workload: str
    contender: str
    measure: str
    round: int
    foreign: float
    value: float
    memory: float

    @property
    def clean(self) -> bool:
        """Tell whether other programs left the machine alone; if that is not known, it counts as quiet."""
        return not self.foreign > LIMIT


def launch(workload: str, contender: str, measure: str, plan: Plan, round: int, cache: str) -> Trial:
    """Run a trial in a fresh process.

    Args:
      cache: a folder for compiled programs, which only contenders with a cache get to see.

    Raises: RuntimeError with the end of what it said, if it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    if CONTENDERS[contender].cached:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
    paths = [str(ROOT), str(ROOT / "benchmarks" / "plugin"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.NamedTemporaryFile("r", suffix=".json") as out:
        load = Load()
        spec = {"workload": workload, "contender": contender, "plan": plan, "out": out.name, "began": time.monotonic()}
        command = [sys.executable, "-m", "benchmarks.trial", json.dumps(spec)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
        foreign = load.foreign()
        if done.returncode != 0:
            raise RuntimeError(f"{contender} on {workload} failed:\n{done.stderr[-3000:]}")
        result = json.load(out)
    return Trial(workload, contender, measure, round, foreign, result[measure], result["memory"])


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Train as a spec says.

    Returns: "steady", milliseconds a step between the first mark after the warm-up and the last mark; "start", seconds
      from `began` to the first mark, which is that of step 1 where the warm-up is one step; "memory" in MB.
    """
    plan = Plan(*spec["plan"])
    marks = CONTENDERS[spec["contender"]].run(WORKLOADS[spec["workload"]], plan)
    after_warmup = [mark for mark in marks if mark[0] >= plan.warmup]
    (first_step, since), (last_step, until) = after_warmup[0], after_warmup[-1]
    return {
        "steady": (until - since) / (last_step - first_step) * 1000,
        "start": marks[0][1] - spec["began"],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    Path(spec["out"]).write_text(json.dumps(run(spec)))
