"""The verbs `bench` and `find-batch`: from words to reports, and from reports to text or JSON."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.commands.arguments import options_of
from framework.config.compose import composed
from framework.config.sizes import bytes_of
from framework.errors import ConfigError


def bench(words: list[str]) -> None:
    """`bench [RUN] [overrides] [--seconds 2] [--json FILE]`: how fast an experiment trains, and what holds it up."""
    words, options = options_of("bench", words, ("--seconds", "--json", "--config-dir"))
    seconds = _seconds(options.get("--seconds", "2"))
    config, name = composed(words, options)
    from framework_bench import bench

    report = bench.bench(config, name, seconds, _age())
    _say(bench.text(report), report, options)


def find_batch(words: list[str]) -> None:
    """`find-batch [RUN] [overrides] [--memory SIZE] [--json FILE]`: the largest batch whose step fits into memory."""
    words, options = options_of("find-batch", words, ("--memory", "--seconds", "--json", "--config-dir"))
    budget = bytes_of(options["--memory"], "--memory") if "--memory" in options else None
    seconds = _seconds(options.get("--seconds", "1"))
    config, name = composed(words, options)
    from framework_bench import batch_size

    report = batch_size.find(config, name, budget, seconds)
    _say(batch_size.text(report), report, options)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise ConfigError(f"--seconds: expected a time for each measurement, up to 3600, found '{text}'.")
    return seconds


def _say(text: str, report: Any, options: Mapping[str, str]) -> None:
    sys.stdout.write(text + "\n")
    if "--json" in options:
        from framework_bench.bench import write_json

        write_json(options["--json"], report)
        sys.stdout.write(f"written: {options['--json']}\n")


def _age() -> float:
    """Seconds since this process began, as the kernel counts; 0 where it is no Linux."""
    try:
        began = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, AttributeError):
        return 0.0
