"""From one event to the next: single compiled steps, or chunks of them in one compiled call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol, cast

import jax
import numpy as np

from framework.api import Batch, DataPipeline, PyTree, Strategy, TrainState
from framework.arrays import aligned, placed
from framework.data import InMemory, is_indexed
from framework.errors import FrameworkError, PluginError
from framework.tasks.metrics import Packed, pack_outputs, unwrap_keys, wrap_keys
from framework.training.chunks import Step, chunked
from framework.training.prefetch import ahead

IN_FLIGHT = 16
"""Steps dispatched and not yet finished. Without a limit, jax 0.10 deadlocks with several CPU devices, and batches
pile up in memory; 1 to 32 were found safe, and a queue that has 8 to 16 never runs empty."""

STRIDE = IN_FLIGHT // 2
"""Single steps between two waits."""

Parts = list[tuple[Packed, int]]


class Advance(Protocol):
    """Runs the steps from start to stop.

    Returns the state and, in order, pairs of means and how many steps they stack; 0 stands for one step, not stacked.
    """

    def __call__(self, state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]: ...


class Feed(NamedTuple):
    """Where batches come from and go to.

    Attributes:
      start: the first batch.
      stops: the steps at which `advance` will be told to stop, in order; what it is given is made ahead of time.
      resident: whether the examples are kept on the devices, and gathered there by index.
      given_up: whether nobody wants to wait for a batch any longer.
    """

    strategy: Strategy
    data: DataPipeline
    seed: int
    start: int
    stops: Iterable[int]
    resident: bool
    given_up: Callable[[], bool] = bool


@contextmanager
def stepper(feed: Feed, step: Step, steps_per_call: int, stopping: Callable[[int], bool]) -> Iterator[Advance]:
    """Single steps for `steps_per_call` 1, else chunks of up to so many; `stopping(updates)` is asked after each.

    Batches are taken, stacked and copied by a thread, while the devices compute. Two kinds are not, since handing them
    over would take as long as making them: tables of indices, and single batches gathered in memory.
    """
    chunks, step = steps_per_call > 1, pack_outputs(_preparing(step, feed.data))
    calls = (span for start, stop in _windows(feed) for span in _calls(start, stop, steps_per_call))
    if chunks:
        make, axes = (_resident, RESIDENT_AXES) if feed.resident else (_stacked, STACKED_AXES)
        call = feed.strategy.train(chunked(step, steps_per_call), axes)
        feeds, quick = make(feed, calls, steps_per_call), feed.resident
    else:
        call = feed.strategy.train(step, 0)
        batches = (batch for _, batch in zip(calls, _batches(feed), strict=False))  # no batch beyond the last call
        feeds, quick = (feed.strategy.feed(batch, 0) for batch in batches), is_indexed(feed.data)

    on_devices = (placed(each) for each in feeds)
    with nullcontext(feeds) if quick else ahead(on_devices, stopping=feed.given_up) as ready:

        def advance(state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]:
            done: Parts = []
            state = unwrap_keys(state)
            for first, end in _calls(start, stop, steps_per_call):
                if (item := next(ready, None)) is None:
                    break  # asked to stop while there was nothing to do
                state, means = call(state, item)
                done.append((means, end - first if chunks else 0))
                _throttle(done)
                if stopping(end):
                    break
            return wrap_keys(state), done

        yield advance


def _preparing(step: Step, data: DataPipeline) -> Step:
    """The step of a batch as it lies in memory."""
    if not (is_indexed(data) and hasattr(data, "prepare")):
        return step
    prepare: Callable[[Batch], Batch] = data.prepare  # pyright: ignore[reportAttributeAccessIssue]
    return lambda state, batch, axis=None: step(state, prepare(batch), axis)


def count_steps(parts: Parts) -> int:
    """How many steps were run."""
    return sum(max(count, 1) for _, count in parts)


def count_finished(parts: Parts) -> int:
    """How many of them are finished for certain when `advance` returns."""
    if not parts or parts[-1][1]:
        return count_steps(parts[:-1])
    waits = len(parts) // STRIDE
    return (waits - 1) * STRIDE + 1 if waits else 0


def _throttle(done: Parts) -> None:
    """Wait for the chunk before the last one; of single steps, wait seldom, since each time wakes this thread up."""
    stride, ago = (1, 2) if done[-1][1] else (STRIDE, STRIDE)
    if len(done) % stride == 0 and len(done) >= ago:
        jax.block_until_ready(done[-ago][0].values)


def _windows(feed: Feed) -> Iterator[tuple[int, int]]:
    start = feed.start
    for stop in feed.stops:
        yield start, stop
        start = stop


def _calls(start: int, stop: int, capacity: int) -> Iterator[tuple[int, int]]:
    """Where the calls between two events begin and end."""
    for first in range(start, stop, capacity):
        yield first, min(first + capacity, stop)


def _batches(feed: Feed) -> Generator[Batch]:
    """The pipeline's batches, of one after the other; of examples in memory, as they lie there.

    Raises: PluginError naming the batch that it could not make.
    """
    step = feed.start
    try:
        for batch in _gathered(feed) if is_indexed(feed.data) else feed.data.train(feed.seed, feed.start):
            yield batch
            step += 1
    except FrameworkError:
        raise
    except Exception as error:
        raise PluginError(f"data: no batch for step {step + 1}: {type(error).__name__}: {error}") from error
    raise PluginError(
        f"data: the batches ended before step {step + 1}; expected `train` to go on without end, or train.steps={step}."
    )


def _gathered(feed: Feed) -> Iterator[Batch]:
    data = cast(InMemory, feed.data)
    leaves, structure = jax.tree.flatten(data.arrays)
    for step in itertools.count(feed.start):
        rows = data.rows(feed.seed, step)
        # Aligned arrays would spare a compiled call its copy; the step then took 4 % more of the processor's time.
        yield jax.tree.unflatten(structure, [leaf.take(rows, axis=0) for leaf in leaves])


RESIDENT_AXES = {"arrays": None, "rows": 1, "count": None}
STACKED_AXES = {"batches": 1, "count": None}


def _resident(feed: Feed, calls: Iterable[tuple[int, int]], capacity: int) -> Generator[Mapping[str, Any]]:
    data = cast(InMemory, feed.data)
    axes = {name: RESIDENT_AXES[name] for name in ("rows", "count")}
    arrays = feed.strategy.feed(data.arrays, None)
    for start, stop in calls:
        rows = [data.rows(feed.seed, step) for step in range(start, stop)]
        table = np.empty((capacity, *rows[0].shape), rows[0].dtype)
        np.stack(rows, out=table[: len(rows)])  # what lies beyond is never read
        yield {"arrays": arrays, **feed.strategy.feed({"rows": table, "count": np.int32(stop - start)}, axes)}


def _stacked(feed: Feed, calls: Iterable[tuple[int, int]], capacity: int) -> Generator[PyTree]:
    def stack(*leaves: np.ndarray) -> np.ndarray:
        stacked = aligned((capacity, *leaves[0].shape), leaves[0].dtype)
        np.stack(leaves, out=stacked[: len(leaves)])
        return stacked  # what lies beyond is never read

    batches = _batches(feed)
    for start, stop in calls:
        taken = [next(batches) for _ in range(start, stop)]
        batch = jax.tree.map(stack, *taken)
        yield feed.strategy.feed({"batches": batch, "count": np.int32(stop - start)}, STACKED_AXES)
