"""The reliability tests by hand: `python -m tests.faults [--tier 1|2|3] [--seed N] [--only TRIAL] [ROW …]`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CACHE = Path(tempfile.gettempdir()) / "framework-faults-jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))  # JAX reads it when it is imported
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.faults import (  # noqa: E402
    damage,
    determinism,
    disks,
    folders,
    inputs,
    kills,
    peers,
    permissions,
    points,
    positions,
    stops,
    suites,
)
from tests.faults.trials import Draws, Outcome  # noqa: E402

ROWS: dict[str, tuple[str, Callable[[int, Draws], Outcome]]] = {
    "R1": ("kill -9 at random moments", kills.kills),
    "R1p": ("ended at every named point of what it does to its folder", points.crashes),
    "R2": ("damaged checkpoints", damage.damage),
    "R3p": ("a full or broken disk at every such point", points.refusals),
    "R3": ("a small disk that fills up", disks.disks),
    "R4": ("where no run can go", disks.places),
    "R5": ("SIGTERM, SIGINT, SIGUSR2 at random moments", stops.stops),
    "R6": ("the same again, and on 1, 2, 4 and 8 devices", determinism.determinism),
    "R7": ("where a run goes on", positions.positions),
    "R8": ("logs and curves after restarts", kills.restarts),
    "R9": ("numbers that are not finite, and runs without any", suites.numbers),
    "R10": ("of two processes, one dies, hangs or is slow", peers.peers),
    "R11": ("starts at once, and one folder for two", folders.folders),
    "R13": ("damaged data files and bad servers", suites.suite("R13")),
    "C1": ("bad configs that people write", inputs.refusals),
    "C2": ("bombs, and mutations of good configs", inputs.mutations),
    "C3": ("a recorded config runs again, without secrets", suites.records),
    "P1": ("broken plugins, and those who do not name them", suites.suite("P1")),
    "P2": ("discovery imports nothing", inputs.discovery),
    "P3": ("a plugin that raises later", suites.suite("P3")),
    "S1": ("configs that try to run something", inputs.attacks("configs")),
    "S2": ("checkpoints, records and data that try to", inputs.attacks("files")),
    "S3": ("what the imports do", inputs.imports),
    "S5": ("permissions of what a run leaves", permissions.permissions),
}
"""Each row: what it does, and `row(tier, draws) -> Outcome`, where draws is a `random.Random` with numbered trials."""


def main(words: list[str] | None = None) -> int:
    """Run rows and print, for each, trials and failures; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all when none is given")
    parser.add_argument(
        "--tier", type=int, choices=(1, 2, 3), default=1, help="how many trials: minutes, an hour, days"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--only", type=int, help="one trial of one row, as a failure names it")
    options = parser.parse_args(words)
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; known: {', '.join(ROWS)}")
    print(f"tier {options.tier}, seed {options.seed}, Python {sys.version.split()[0]}", flush=True)
    failed = 0
    for name in options.rows or ROWS:
        text, row = ROWS[name]
        began = time.monotonic()
        outcome = row(options.tier, Draws(name, options.tier, options.seed, options.only))
        failed += outcome.failed
        # With no failure in n trials, the true rate is below 3/n with a confidence of 95 %.
        bound = f", rate below {3 / outcome.done:.1%}" if outcome.done > 3 and not outcome.failed else ""
        seconds = time.monotonic() - began
        print(f"{name} {text}: {outcome.done} done, {outcome.failed} failed{bound} ({seconds:.0f} s)", flush=True)
        for detail in outcome.details:
            print(f"   {detail}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
