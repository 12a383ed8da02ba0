"""From one event to the next: single compiled steps, or chunks of them in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from signal import Signals
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from framework.api import Batch, InMemory, PyTree, TrainState
from framework.arrays import aligned, placed
from framework.data.batches import check_range
from framework.experiment import Experiment
from framework.steps.metrics import Packed, pack_outputs, unwrap_keys, wrap_keys
from framework.training.callbacks import raise_pending
from framework.training.chunks import Step, chunked, is_resident
from framework.training.compiles import Traces, check_traces
from framework.training.prefetch import ahead, never
from framework.training.times import Times

IN_FLIGHT = 16
"""Steps dispatched and not yet finished. Without a limit, jax 0.10 deadlocks with several CPU devices, and batches
pile up in memory; 1 to 32 were found safe, and a queue that has 8 to 16 never runs empty."""

STRIDE = IN_FLIGHT // 2
"""Single steps between two waits."""

Parts = list[tuple[Packed, int]]
"""For each compiled call, its metrics and the number of steps that they stack; 0 for a single step, not stacked."""


TOLD = "told to stop"
"""The reason of a run that `framework tell RUN stop` ended: a wish that was met, and no interruption."""


def is_to_go_on(reason: str | None) -> bool:
    """Tell whether a training that ended early for a reason is meant to go on: after a signal, or told to stop."""
    return reason == TOLD or reason in Signals.__members__


class StopRequests(NamedTuple):
    """The requests to end a run early.

    Attributes:
      after: `after(step)` returns the signal that ends the run after so many updates, or None. Of several processes all
        get the same answer.
      cancelled: tells whether to stop waiting for data. Several processes end at a common step, so that none of them
        can stop waiting alone.
      taken: returns the requests to do something between two windows: "checkpoint", "evaluate", "profile" or "stop".
    """

    after: Callable[[int], Signals | None]
    cancelled: Callable[[], bool] = never
    taken: Callable[[], tuple[str, ...]] = tuple


NO_REQUESTS = StopRequests(lambda step: None)
"""For steps that nothing ends early."""


class Advance(Protocol):
    """Run the steps from start to stop, and return the state and the metrics of each call, in order."""

    def __call__(self, state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]: ...


class Program(NamedTuple):
    """The compiled train step of an experiment, and the form in which it is fed.

    Attributes:
      call: `call(state, feed) -> (state, metrics)`, whose state has `Bits` in the place of keys.
      per_call: 1 for single steps, else the largest number of steps in one call.
      is_resident: the examples lie on the devices, and feeds are tables of indices.
      traces: of the step, noted as they are made.
    """

    call: Callable[[TrainState, PyTree], tuple[TrainState, Packed]]
    per_call: int
    is_resident: bool
    traces: Traces


def compiled(experiment: Experiment, per_call: int, traces: Traces | None = None) -> Program:
    """Let the strategy compile the train step, alone or in chunks of up to `per_call` steps.

    Args:
      traces: where those of the step are noted.
    """
    traces = Traces() if traces is None else traces
    memory, train = experiment.batches.in_memory(), experiment.strategy.train
    step = pack_outputs(_prepared(experiment.task.train_step, memory))
    if per_call == 1:
        return Program(train(traces.noting(step), 0), 1, False, traces)
    is_on_devices = memory is not None and is_resident(experiment)
    axes = RESIDENT_AXES if is_on_devices else STACKED_AXES
    return Program(train(traces.noting(chunked(step, per_call)), axes), per_call, is_on_devices, traces)


@contextmanager
def stepper(
    experiment: Experiment,
    program: Program,
    stops: Iterable[int],
    start: int = 0,
    requests: StopRequests = NO_REQUESTS,
    times: Times | None = None,
) -> Iterator[Advance]:
    """Feed a compiled train step, inside the context.

    A thread takes batches, stacks and copies them while the devices compute. Two kinds of feeds need no thread, since
    handing them over takes as long as making them: tables of indices, and single batches gathered in memory.

    Args:
      program: of `compiled`.
      stops: the steps at which `advance` will be told to stop, in order; feeds are made for them ahead of time.
      start: updates made so far.
      requests: asked after each call; a signal ends `advance`.
      times: told what the time is spent on.

    Raises: PluginError with train.retraces=error, if the step is traced more than once.
    """
    times = Times() if times is None else times
    memory, per_call = experiment.batches.in_memory(), program.per_call
    calls = (span for window in _windows(start, stops) for span in _calls(*window, per_call))
    if per_call == 1:
        # `zip` asks `calls` first, so that no batch beyond the last call is made.
        batches = (batch for _, batch in zip(calls, _batches(experiment, start), strict=False))
        feeds, is_quick = (experiment.strategy.feed(batch, 0) for batch in batches), memory is not None
    elif program.is_resident and memory is not None:
        feeds, is_quick = _tables(experiment, memory, calls, per_call), True
    else:
        feeds, is_quick = _stacks(experiment, calls, per_call, start), False

    on_devices = (placed(each) for each in feeds)
    with nullcontext(feeds) if is_quick else ahead(on_devices, cancelled=requests.cancelled) as ready:

        def advance(state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]:
            done: Parts = []
            before = times.switch("dispatch")
            state = unwrap_keys(state)
            for first, end in _calls(start, stop, per_call):
                times.switch("data")
                if (feed := next(ready, NONE_LEFT)) is NONE_LEFT:
                    break  # the wait for data was cancelled
                times.switch("checkpoints")
                raise_pending(experiment.callbacks)
                times.switch("dispatch")
                traced = len(program.traces.seen)
                try:
                    with jax.profiler.StepTraceAnnotation("train", step_num=end):
                        state, metrics = program.call(state, feed)
                except FloatingPointError as error:  # of debug=nans and debug=infs
                    raise FloatingPointError(str(error).splitlines()[0].rstrip("."), end) from error
                if len(program.traces.seen) > traced:
                    times.recast("compiling")
                    check_traces(program.traces, experiment, end)
                done.append((metrics, 0 if per_call == 1 else end - first))
                times.switch("device")
                _throttle(done)
                times.switch("dispatch")
                if requests.after(end) is not None:
                    break
            times.switch(before)
            return wrap_keys(state), done

        yield advance


def count_steps(parts: Parts) -> int:
    """Count the steps that were run."""
    return sum(max(count, 1) for _, count in parts)


def count_finished(parts: Parts) -> int:
    """Count the steps of those that are finished; they end in their order."""
    for end in range(len(parts), 0, -1):
        if all(leaf.is_ready() for leaf in jax.tree.leaves(parts[end - 1][0].values)):
            return count_steps(parts[:end])
    return 0


def _throttle(done: Parts) -> None:
    """Wait for the chunk before the last one; of single steps, wait seldom, since each wait wakes this thread up."""
    stride, ago = (1, 2) if done[-1][1] else (STRIDE, STRIDE)
    if len(done) % stride == 0 and len(done) >= ago:
        jax.block_until_ready(done[-ago][0].values)


def _prepared(step: Step, memory: InMemory | None) -> Step:
    """Let a step take a batch as it lies in memory."""
    if memory is None:
        return step
    return lambda state, batch, axis=None: step(state, memory.prepare(batch), axis)


def _windows(start: int, stops: Iterable[int]) -> Iterator[tuple[int, int]]:
    for stop in stops:
        yield start, stop
        start = stop


def _calls(start: int, stop: int, per_call: int) -> Iterator[tuple[int, int]]:
    """Yield the first step and the end of each call between two events."""
    for first in range(start, stop, per_call):
        yield first, min(first + per_call, stop)


def _batches(experiment: Experiment, start: int) -> Iterator[Batch]:
    """Yield the pipeline's batches from `start` on; of examples in memory, as they lie there."""
    data, seed = experiment.batches, experiment.settings.seed
    memory = data.in_memory()
    return data.train(seed, start) if memory is None else memory.gathered(seed, start)


NONE_LEFT = object()
"""Beside all that a strategy's `feed` may return."""

RESIDENT_AXES = {"arrays": None, "rows": 1, "count": None}
STACKED_AXES = {"batches": 1, "count": None}


def _tables(
    experiment: Experiment, memory: InMemory, calls: Iterable[tuple[int, int]], per_call: int
) -> Generator[Mapping[str, Any]]:
    """Yield the examples on the devices with a table of indices, int32 [per_call, B], for each call."""
    feed, seed = experiment.strategy.feed, experiment.settings.seed
    axes = {name: RESIDENT_AXES[name] for name in ("rows", "count")}
    arrays, size = feed(memory.arrays, None), len(jax.tree.leaves(memory.arrays)[0])
    for start, stop in calls:
        rows = [memory.rows(seed, step) for step in range(start, stop)]
        table = np.empty((per_call, *rows[0].shape), rows[0].dtype)
        np.stack(rows, out=table[: len(rows)])  # the rest is never read
        check_range(table[: len(rows)], size, start, experiment.plugins["data"].title)
        yield {"arrays": arrays, **feed({"rows": table, "count": np.int32(stop - start)}, axes)}


def _stacks(
    experiment: Experiment, calls: Iterable[tuple[int, int]], per_call: int, start: int
) -> Generator[Mapping[str, Any]]:
    """Yield the batches of each call, stacked: leaves [per_call, B, ...]."""

    def stack(*leaves: np.ndarray) -> np.ndarray:
        stacked = aligned((per_call, *leaves[0].shape), leaves[0].dtype)
        np.stack(leaves, out=stacked[: len(leaves)])
        return stacked  # the rest is never read

    batches = _batches(experiment, start)
    for first, end in calls:
        taken: list[PyTree] = [next(batches) for _ in range(first, end)]
        feed = {"batches": jax.tree.map(stack, *taken), "count": np.int32(end - first)}
        yield experiment.strategy.feed(feed, STACKED_AXES)
