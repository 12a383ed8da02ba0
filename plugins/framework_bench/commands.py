"""The verbs `bench` and `find-batch`: from words to reports, and from reports to text or JSON."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework.command import Command
from framework.commands.answers import print_json
from framework.commands.arguments import Arguments, config_of
from framework.config.sizes import bytes_of
from framework.console.terminal import page_width, telling
from framework.errors import printable

LONGEST = 3600.0
"""Seconds that one measurement may take."""


def bench() -> Command:
    """Measure how fast an experiment trains, and what holds it up."""
    return Command("bench", "measure how fast it trains here, and what holds it up", run_bench, group="measure")


def find_batch() -> Command:
    """Find the largest batch whose step fits into memory."""
    return Command("find-batch", "find the largest batch that fits into memory", run_find_batch, group="measure")


def run_bench(words: list[str]) -> None:
    """Measure an experiment and print a report.

    Raises: FrameworkError, as a run would.
    """
    arguments = Arguments(
        "bench",
        "Measure how fast an experiment trains on this machine, and what holds it up: steps as a run makes them, the "
        "compiled step alone, the data alone, evaluation, start-up and memory. No run folder is made.",
        "bench +experiment=mnist strategy=pmap --seconds 5",
        "[RUN] [KEY=VALUE ...] [options]",
    )
    arguments.add_config()
    arguments.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="for each measurement (2)")
    arguments.add_json()
    given = arguments.read(words)
    config = config_of(given.words, given.config_dir)
    from framework_bench import bench

    with telling() as say:
        report = bench.bench(config, given.seconds, _age(), say)
    _show(bench.text, report, given.json)


def run_find_batch(words: list[str]) -> None:
    """Search the largest batch and print a report.

    Raises: FrameworkError, as a run would.
    """
    arguments = Arguments(
        "find-batch",
        "Find the largest batch whose training step fits into memory, and time some smaller ones. The compiler tells "
        "how much memory a step needs, so that no step is run for it.",
        "find-batch +experiment=mnist --memory 8GiB",
        "[RUN] [KEY=VALUE ...] [options]",
    )
    arguments.add_config()
    about = "that each device may use, such as 8GiB (90%% of what is free)"
    arguments.add_argument("--memory", type=_memory, metavar="SIZE", help=about)
    arguments.add_argument("--seconds", type=_seconds, default=1.0, metavar="S", help="for each measurement (1)")
    arguments.add_json()
    given = arguments.read(words)
    config = config_of(given.words, given.config_dir)
    from framework_bench import batch_size

    with telling() as say:
        report = batch_size.find(config, given.memory, given.seconds, say)
    _show(batch_size.text, report, given.json)


def _memory(text: str) -> int:
    return bytes_of(text, "--memory")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0 and up to {LONGEST:g}, found '{text}'")
    return seconds


def _show(text: Callable[[Any, int | None], str], report: Any, is_json: bool) -> None:
    if is_json:
        print_json(report)
    else:
        sys.stdout.write(printable(text(report, page_width())) + "\n")


def _age() -> float:
    """Return the seconds since this process began, as the kernel counts them; 0 on systems other than Linux."""
    try:
        began = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, AttributeError):
        return 0.0
