"""The speed of an experiment on this machine, and what holds it up: `framework bench +experiment=…`."""

from __future__ import annotations

import os
import resource
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import jax

from framework.api import Batch
from framework.config.compose import Config
from framework.config.sizes import in_words
from framework.console.tables import narrowed, text_table
from framework.console.terminal import Say, fitted, silent
from framework.experiment import Experiment, clocked
from framework.training import memory
from framework.training.chunks import AUTO_CHUNK
from framework_bench import timing
from framework_bench.others import Others, warning

SINGLE, CHUNKED = "single steps", "chunks of steps"
BARE, DATA, EVALUATION = "bare step (limit)", "data alone", "evaluation"


class Row(NamedTuple):
    """The measurement of one mode."""

    mode: str
    ms: float  # for a step, or a batch
    examples_per_second: float
    of_limit: float | None  # speed as a share of the bare step's; None for data and evaluation


class Report(NamedTuple):
    """The result of `bench`.

    Attributes:
      experiment: name of the experiment.
      device: strategy, devices and batch size, in words.
      chosen: the mode in which a run with this config trains.
      bottleneck: a sentence that says what to change first.
      rows: one for each mode.
      start: seconds to the first finished step, by part.
      memory: bytes, by what holds them.
      others: processors that other programs took while it was timed; None where unknown.
    """

    experiment: str
    device: str
    chosen: str
    bottleneck: str
    rows: tuple[Row, ...]
    start: Mapping[str, float]
    memory: Mapping[str, int]
    others: float | None = None


def bench(config: Config, seconds: float = 2.0, before: float = 0.0, say: Say = silent) -> Report:
    """Measure an experiment; no run folder is made, and callbacks are not called.

    Args:
      config: as composed.
      seconds: for each mode, without compilation.
      before: seconds since the process began.
      say: is told what goes on.

    Raises: FrameworkError, as a run would.
    """
    say("building the experiment")
    with timing.opened(config) as (experiment, start), ExitStack() as up:
        start = {"interpreter, imports, config": before, **start}
        held, start["initial state"] = clocked(lambda: timing.Held(experiment))
        batch = next(experiment.batches.train(experiment.settings.seed))
        compiled = memory.is_compiled(experiment.strategy.train(experiment.task.train_step, 0))
        # Without compilation a chunk is its single steps, one after the other: fifty of them can take a minute.
        calls = timing.steps_per_call(experiment, held) if compiled else 1
        chosen = SINGLE if calls == 1 else CHUNKED
        first, made = clocked(lambda: timing.training(experiment, held, calls, up))
        start["first call: data to devices, trace, compile or load, run"] = made + first(1)
        modes = {SINGLE: first if calls == 1 else timing.training(experiment, held, 1, up)}
        if compiled:
            modes[CHUNKED] = first if calls > 1 else timing.training(experiment, held, AUTO_CHUNK, up)
        modes |= {
            BARE: timing.bare(experiment, held, batch),
            DATA: timing.data(experiment),
            EVALUATION: timing.evaluation(experiment, held),
        }
        watch = Others()
        medians = timing.interleaved(modes, seconds, say)
        others = watch.processors()
        if compiled:
            medians[CHUNKED] /= calls if calls > 1 else AUTO_CHUNK
        rows = tuple(_row(experiment, medians, mode) for mode in modes)
        return Report(
            config.name,
            device_in_words(experiment),
            chosen,
            bottleneck(medians, chosen),
            rows,
            start,
            _memory(experiment, held, batch),
            others,
        )


def bottleneck(medians: Mapping[str, float], chosen: str) -> str:
    """Say in one sentence what to change first.

    Args:
      medians: seconds for a step, or a batch, by mode.
      chosen: the mode in which a run trains.
    """
    step, bare, data = (medians[mode] for mode in (chosen, BARE, DATA))
    other = SINGLE if chosen == CHUNKED else CHUNKED
    if other in medians and medians[other] < 0.9 * step:
        calls = 1 if other == SINGLE else AUTO_CHUNK
        return f"how steps are called; train.steps_per_call={calls} is {step / medians[other]:.2f} times as fast."
    if step <= 1.15 * bare:
        return f"the compiled step, which is {min(bare / step, 1):.0%} of a step's time."
    if data > 0.5 * step:
        return f"the data; the pipeline takes {data * 1000:.3g} ms for a batch, the compiled step {bare * 1000:.3g} ms."
    return f"the host, which takes {1 - bare / step:.0%} of a step's time; a larger batch would hide it."


def text(report: Report, width: int | None = None) -> str:
    """Write the report as tables and some lines, no wider than a terminal of so many columns, if there is one."""
    lines = [("", "ms", "examples/s", "of the limit")]
    for row in report.rows:
        mode = f"{row.mode} *" if row.mode == report.chosen else row.mode
        of_limit = "" if row.of_limit is None else f"{row.of_limit:.2f}"
        lines.append((mode, f"{row.ms:.4g}", f"{row.examples_per_second:,.0f}", of_limit))
    parts = [(f"{seconds:.2f} s", part) for part, seconds in report.start.items()]
    sizes = [(in_words(size), part) for part, size in report.memory.items()]
    return "\n".join(
        [
            fitted(f"{report.experiment}, {report.device} (* is how a run trains)", width),
            text_table(narrowed(lines, width), right=(1, 2, 3)),
            f"time to first step: {sum(report.start.values()):.2f} s",
            _listed(parts, width),
            "memory:",
            _listed(sizes, width),
            fitted(f"bottleneck: {report.bottleneck}", width),
            *(fitted(line, width) for line in [warning(report.others, os.cpu_count() or 1)] if line),
        ]
    )


def _listed(rows: Sequence[Sequence[str]], width: int | None) -> str:
    return textwrap.indent(text_table(rows, right=(0,), width=width and width - 2), "  ")


def device_in_words(experiment: Experiment) -> str:
    """Describe where it runs, as "jit on 1 of 2 × cpu, batches of 128"."""
    devices = jax.local_devices()
    used = f"{experiment.devices} of {len(devices)} × {devices[0].device_kind}"
    return f"{experiment.config['strategy']['name']} on {used}, batches of {experiment.batch_size}"


def _row(experiment: Experiment, medians: Mapping[str, float], mode: str) -> Row:
    seconds = medians[mode]
    examples = experiment.batch_size
    if mode == EVALUATION:
        examples = len(jax.tree.leaves(next(experiment.batches.eval(experiment.batches.splits[0])))[0])
    of_limit = medians[BARE] / seconds if mode in (SINGLE, CHUNKED, BARE) else None
    return Row(mode, seconds * 1000, examples / seconds, of_limit)


def _memory(experiment: Experiment, held: timing.Held, batch: Batch) -> dict[str, int]:
    """Return the peak of the process, that of the first device where it is known, and the need of a compiled step."""
    unit = 1 if sys.platform == "darwin" else 1024
    sizes = {"peak of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        sizes["peak of the first device"] = int(stats["peak_bytes_in_use"])
    call = experiment.strategy.train(experiment.task.train_step, 0)
    if not memory.is_compiled(call):
        return sizes
    needed = memory.needed(call, held.state, timing.on_devices(experiment, batch))
    return {**sizes, "a compiled step, with its state and batch": needed}
