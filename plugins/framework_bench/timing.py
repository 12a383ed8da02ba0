"""What can be timed of an experiment: its ways to step, the bare step, its data, its evaluation."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import jax
import numpy as np
from omegaconf import DictConfig

from framework.api import Batch, PyTree, TrainState
from framework.config.resolve import extended, plain, settings_of
from framework.errors import ConfigError
from framework.experiment import Experiment, build, clocked
from framework.registry.entry_points import discover
from framework.runs.compilation_cache import persistent_cache
from framework.runs.logs import console
from framework.tasks.metrics import pack_outputs, unwrap_keys, wrap_keys
from framework.training import chunks
from framework.training.debug import Explicit, switches
from framework.training.evaluation import measure
from framework.training.stepper import IN_FLIGHT, stepper

ROUNDS = 5
"""Times that every mode is measured, in turn; the median counts."""

LONGEST = 2**20
"""Steps that are timed at once, at most: a step that does nothing would be doubled for ever."""

Timed = Callable[[int], float]
"""`timed(count) -> seconds` for so many steps or batches, until their results are there."""


@contextmanager
def opened(config: DictConfig) -> Iterator[tuple[Experiment, dict[str, float]]]:
    """An experiment, built as for a run but without a run folder, beside the seconds that its parts took.

    Raises: FrameworkError, as a run would; ConfigError for several processes.
    """
    settings = settings_of(plain(extended(config)))
    if settings.distributed.coordinator is not None:
        raise ConfigError("distributed: one process is measured; leave it out, with distributed.coordinator=null.")
    with console(), persistent_cache(settings.run), switches(settings.debug):
        experiment, seconds = clocked(lambda: build(config, discover()))
        parts = {"data": experiment.data_seconds, "other components, shapes": seconds - experiment.data_seconds}
        yield experiment, parts


class Held:
    """The one state that all modes pass on, since a step takes over the state it is given."""

    def __init__(self, experiment: Experiment) -> None:
        self.state: TrainState = experiment.strategy.init(experiment.init, np.uint32(experiment.settings.seed))
        jax.block_until_ready(self.state)


def interleaved(modes: Mapping[str, Timed], seconds: float) -> dict[str, float]:
    """Seconds for one of what each mode counts: the median of rounds in which every mode has its turn.

    How many are timed at once is found by doubling, until they fill a round's part of `seconds`, the time for each
    mode. A first call compiles, and a second may compile for the layout of what the first returned: neither counts.
    """
    counts = {}
    for mode, timed in modes.items():
        timed(1)
        timed(1)
        counts[mode] = 1
        while timed(counts[mode]) < seconds / ROUNDS / 2 and counts[mode] < LONGEST:
            counts[mode] *= 2
    rounds = [{mode: timed(counts[mode]) / counts[mode] for mode, timed in modes.items()} for _ in range(ROUNDS)]
    return {mode: statistics.median(each[mode] for each in rounds) for mode in modes}


def steps_per_call(experiment: Experiment, held: Held) -> int:
    """What `train.steps_per_call` comes to in a run."""
    return chunks.steps_per_call(experiment, held.state)


def training(experiment: Experiment, held: Held, steps_per_call: int, up: ExitStack) -> Timed:
    """Calls of so many steps, as the loop makes them between two records: data, dispatch and all, without callbacks.

    What feeds them ends with the context `up`.
    """
    stops = itertools.count(steps_per_call, steps_per_call)
    advance = up.enter_context(stepper(experiment._replace(callbacks=()), steps_per_call, stops))
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
    """The compiled step called back to back on one batch that lies on the devices."""
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
    """Batches from the pipeline to the devices, one after the other."""
    batches = experiment.batches.train(experiment.settings.seed)

    def timed(count: int) -> float:
        began = time.perf_counter()
        for batch in itertools.islice(batches, count):
            jax.block_until_ready(on_devices(experiment, batch))
        return time.perf_counter() - began

    return timed


def evaluation(experiment: Experiment, held: Held) -> Timed:
    """Batches of the first evaluation split, measured, over and over."""
    step = experiment.strategy.evaluate(experiment.task.eval_step)
    batches = _endless(lambda: experiment.batches.eval(experiment.batches.splits[0]))

    def timed(count: int) -> float:
        began = time.perf_counter()
        measure(step, experiment.strategy.feed, held.state, itertools.islice(batches, count))
        return time.perf_counter() - began

    return timed


def on_devices(experiment: Experiment, batch: Batch) -> PyTree:
    """A batch as a step wants it, on the devices for certain."""
    return Explicit(experiment.strategy).feed(batch, 0)


def _endless(batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    while True:
        yield from batches()
