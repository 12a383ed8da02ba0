"""Timings of an experiment: its ways to step, the bare step, its data, its evaluation."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import jax
import numpy as np

from framework.api import Batch, PyTree, TrainState
from framework.config.compose import Config
from framework.console.terminal import Say, silent
from framework.errors import ConfigError
from framework.experiment import Experiment, build, clocked
from framework.records.logs import console
from framework.registry.entry_points import discover
from framework.runs.compilation_cache import persistent_cache
from framework.steps.metrics import pack_outputs, unwrap_keys, wrap_keys
from framework.training import chunks
from framework.training.debug import Explicit, switches
from framework.training.evaluation import measure
from framework.training.stepper import IN_FLIGHT, compiled, stepper

ROUNDS = 5
"""Number of measurements of each mode, taken in turn; the median counts."""

LONGEST = 2**20
"""Limit of the steps that are timed at once: for a step that does nothing, doubling would not end."""

Timed = Callable[[int], float]
"""`timed(count) -> seconds` for so many steps or batches, until their results are finished."""


@contextmanager
def opened(config: Config) -> Iterator[tuple[Experiment, dict[str, float]]]:
    """Build an experiment as for a run, but without a run folder.

    Yields: the experiment, and seconds by the part that took them.

    Raises: FrameworkError, as a run would; ConfigError for several processes.
    """
    settings = config.settings
    if settings.distributed.coordinator is not None:
        raise ConfigError(
            "one process is measured; leave it out, with distributed.coordinator=null.", key="distributed"
        )
    with config.locating(), console(), persistent_cache(settings.run), switches(settings.debug):
        experiment, seconds = clocked(lambda: build(config, discover()))
        parts = {"data": experiment.data_seconds, "other components, shapes": seconds - experiment.data_seconds}
        yield experiment, parts


class Held:
    """The one state that all modes pass on: a step consumes the state that it is given."""

    def __init__(self, experiment: Experiment, shapes: TrainState | None = None) -> None:
        """Make the state; `shapes` stand in its place where no step is run."""
        seed = np.uint32(experiment.settings.seed)
        self.state: TrainState = experiment.strategy.init(experiment.init, seed) if shapes is None else shapes
        jax.block_until_ready(self.state)


def interleaved(modes: Mapping[str, Timed], seconds: float, say: Say = silent) -> dict[str, float]:
    """Return the seconds that each mode takes for one step or batch: the median of rounds in which each has its turn.

    The number of steps that are timed at once is doubled until they fill a round's part of `seconds`, the time for each
    mode. A first call compiles, and a second may compile for the layout of the first one's results: neither counts.
    """
    counts = {}
    for mode, timed in modes.items():
        say(f"{mode}: compiling, first calls")
        timed(1)
        timed(1)
        counts[mode] = 1
        while timed(counts[mode]) < seconds / ROUNDS / 2 and counts[mode] < LONGEST:
            counts[mode] *= 2
    rounds = []
    for place in range(ROUNDS):
        say(f"timing: round {place + 1} of {ROUNDS}")
        rounds.append({mode: timed(counts[mode]) / counts[mode] for mode, timed in modes.items()})
    return {mode: statistics.median(each[mode] for each in rounds) for mode in modes}


def steps_per_call(experiment: Experiment, held: Held) -> int:
    """Resolve `train.steps_per_call` as a run does."""
    return chunks.steps_per_call(experiment, held.state)


def training(experiment: Experiment, held: Held, steps_per_call: int, up: ExitStack) -> Timed:
    """Time calls of so many steps, as the loop makes them between two records, with data, without callbacks.

    The threads that feed them end with the context `up`.
    """
    stops = itertools.count(steps_per_call, steps_per_call)
    program = compiled(experiment, steps_per_call)
    advance = up.enter_context(stepper(experiment._replace(callbacks=()), program, stops))
    at = 0

    def timed(count: int) -> float:
        nonlocal at
        began = time.perf_counter()
        held.state, _ = advance(held.state, at, at + count * steps_per_call)
        at += count * steps_per_call
        jax.block_until_ready(held.state)
        return time.perf_counter() - began

    return timed


def bare(experiment: Experiment, held: Held, batch: Batch) -> Timed:
    """Time the compiled step alone, called back to back on one batch that lies on the devices."""
    call = experiment.strategy.train(pack_outputs(experiment.task.train_step), 0)
    batch = on_devices(experiment, batch)

    def timed(count: int) -> float:
        began = time.perf_counter()
        state, waiting = unwrap_keys(held.state), deque[PyTree]()
        for _ in range(count):
            state, means = call(state, batch)
            waiting.append(means.values)
            if len(waiting) >= IN_FLIGHT:
                jax.block_until_ready(waiting.popleft())
        held.state = jax.block_until_ready(wrap_keys(state))
        return time.perf_counter() - began

    return timed


def data(experiment: Experiment) -> Timed:
    """Time batches from the pipeline to the devices, one after the other."""
    batches = experiment.batches.train(experiment.settings.seed)

    def timed(count: int) -> float:
        began = time.perf_counter()
        for batch in itertools.islice(batches, count):
            jax.block_until_ready(on_devices(experiment, batch))
        return time.perf_counter() - began

    return timed


def evaluation(experiment: Experiment, held: Held) -> Timed:
    """Time the evaluation of batches of the first split, over and over."""
    step = experiment.strategy.evaluate(experiment.task.eval_step)
    batches = _endless(lambda: experiment.batches.eval(experiment.batches.splits[0]))

    def timed(count: int) -> float:
        began = time.perf_counter()
        measure(step, experiment.strategy.feed, held.state, itertools.islice(batches, count))
        return time.perf_counter() - began

    return timed


def on_devices(experiment: Experiment, batch: Batch) -> PyTree:
    """Put a batch on the devices, in the layout that steps want."""
    return Explicit(experiment.strategy).feed(batch, 0)


def _endless(batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    while True:
        yield from batches()
