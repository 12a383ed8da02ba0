"""From one event to the next: single compiled steps, or chunks of them in one compiled call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, DataPipeline, Strategy, TrainState

LOGGER = logging.getLogger("framework")

IN_FLIGHT = 16
"""Steps dispatched and not yet finished. Without a limit, jax 0.10 deadlocks with several CPU devices, and batches
pile up in memory; 1 to 32 were found safe, and a queue of 16 never runs empty."""

AUTO_CHUNK = 50
"""Steps in a call when it is left to us: dispatch is then some thousandths of even the smallest step."""

RESIDENT_BYTES = 2**30
"""Training splits up to this size are kept on the device and gathered there by index; larger ones are stacked."""

Means = Mapping[str, Any]
Parts = list[tuple[Means, int]]
Step = Callable[..., tuple[TrainState, Means]]


class Advance(Protocol):
    """Runs the steps from start to stop.

    Returns the state and, in order, pairs of means and how many steps they stack; 0 stands for one step, not stacked.
    """

    def __call__(self, state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]: ...


class Indexed(Protocol):
    """What a pipeline may offer beside `train` if its examples lie in memory: all of them, and a batch's indices."""

    arrays: Batch

    def rows(self, seed: int, step: int) -> np.ndarray: ...


class Feed(NamedTuple):
    """Where batches come from and go to."""

    strategy: Strategy
    data: DataPipeline
    seed: int


def stepper(feed: Feed, step: Step, steps_per_call: int, stopping: Callable[[], bool]) -> Advance:
    """Single steps for `steps_per_call` 1, else chunks of up to so many; `stopping` is asked after each call."""
    if steps_per_call == 1:
        return _single(feed, step, stopping)
    table = _resident(feed, steps_per_call) if _is_resident(feed.data) else _stacked(feed, steps_per_call)
    return _chunks(feed, step, table, steps_per_call, stopping)


def count_steps(parts: Parts) -> int:
    """How many steps were run."""
    return sum(max(count, 1) for _, count in parts)


def count_finished(parts: Parts) -> int:
    """How many of them are finished for certain when `advance` returns."""
    if parts[-1][1]:
        return count_steps(parts[:-1])
    return len(parts) - IN_FLIGHT + 1 if len(parts) > IN_FLIGHT else 0


def choose(wanted: int | str, step: Step, state: TrainState, spec: Batch) -> int:
    """What `train.steps_per_call` comes to; "auto" goes by the program alone, so that a resumed run decides alike.

    XLA's CPU backend runs a convolution inside a loop body 10 to 20 times slower unless it has the plain NHWC/HWIO
    layout. Gradients that JAX derives have another one, so a step that holds such a convolution is called singly there.
    """
    if isinstance(wanted, int):
        return wanted
    if jax.default_backend() == "cpu" and _slow_in_loops(jax.make_jaxpr(step)(state, spec).jaxpr):
        LOGGER.info("steps_per_call: 1, since a convolution's gradient is slow inside compiled loops on a CPU")
        return 1
    LOGGER.info(f"steps_per_call: {AUTO_CHUNK}")
    return AUTO_CHUNK


def chunked(step: Step, capacity: int) -> Callable[..., tuple[TrainState, Means]]:
    """Up to `capacity` steps as one function `chunk(state, feed, axis) -> (state, means)`.

    The number of steps is a traced value, so one program serves all; how a run is cut into chunks changes no bit of it.

    Args:
      step: `step(state, batch, axis) -> (state, means)`.
      capacity: length of the buffers for the means; those beyond `feed["count"]` stay 0.

    Returns: a function of a feed with "count" and either "batches" [capacity, B, …] or "arrays" [N, …] and "rows"
      [capacity, B].
    """

    def chunk(state: TrainState, feed: Mapping[str, Any], axis: str | None = None) -> tuple[TrainState, Means]:
        def body(index: Array, carry: tuple[TrainState, Means]) -> tuple[TrainState, Means]:
            state, buffers = carry
            state, means = step(state, _batch(feed, index), axis)
            return state, jax.tree.map(lambda buffer, mean: buffer.at[index].set(mean), buffers, means)

        _, shapes = jax.eval_shape(lambda s: step(s, _batch(feed, 0), axis), state)
        buffers = jax.tree.map(lambda mean: jnp.zeros((capacity, *mean.shape), mean.dtype), shapes)
        return jax.lax.fori_loop(0, feed["count"], body, (state, buffers))

    return chunk


def _batch(feed: Mapping[str, Any], index: Array | int) -> Batch:
    if "rows" in feed:
        rows = feed["rows"][index]
        return jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), feed["arrays"])
    return jax.tree.map(lambda leaf: leaf[index], feed["batches"])


def _single(feed: Feed, step: Step, stopping: Callable[[], bool]) -> Advance:
    call = feed.strategy.train(step, 0)
    batches: Iterator[Batch] | None = None

    def advance(state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]:
        nonlocal batches
        batches = feed.data.train(feed.seed, start) if batches is None else batches
        done: Parts = []
        while start + len(done) < stop and not (done and stopping()):
            state, means = call(state, feed.strategy.feed(next(batches), 0))
            done.append((means, 0))
            if len(done) > IN_FLIGHT:
                jax.block_until_ready(done[-IN_FLIGHT])
        return state, done

    return advance


class _Table(NamedTuple):
    """What feeds a chunk: a function from a range of steps, and which axis of it counts examples."""

    of: Callable[[int, int], Mapping[str, Any]]
    axes: Mapping[str, int | None]


def _resident(feed: Feed, capacity: int) -> _Table:
    data = cast(Indexed, feed.data)
    axes = {"rows": 1, "count": None}
    arrays = feed.strategy.feed(data.arrays, None)

    def of(start: int, stop: int) -> Mapping[str, Any]:
        rows = [data.rows(feed.seed, step) for step in range(start, stop)]
        table = np.stack(rows + rows[:1] * (capacity - len(rows)))
        return {"arrays": arrays, **feed.strategy.feed({"rows": table, "count": np.int32(stop - start)}, axes)}

    return _Table(of, {"arrays": None, **axes})


def _stacked(feed: Feed, capacity: int) -> _Table:
    axes = {"batches": 1, "count": None}
    batches: Iterator[Batch] | None = None

    def of(start: int, stop: int) -> Mapping[str, Any]:
        nonlocal batches
        batches = feed.data.train(feed.seed, start) if batches is None else batches
        taken = [next(batches) for _ in range(start, stop)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *taken, *taken[:1] * (capacity - len(taken)))
        return feed.strategy.feed({"batches": stacked, "count": np.int32(stop - start)}, axes)

    return _Table(of, axes)


def _chunks(feed: Feed, step: Step, table: _Table, capacity: int, stopping: Callable[[], bool]) -> Advance:
    call = feed.strategy.train(chunked(step, capacity), table.axes)

    def advance(state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]:
        done: Parts = []
        for at in range(start, stop, capacity):
            until = min(at + capacity, stop)
            state, means = call(state, table.of(at, until))
            done.append((means, until - at))
            if len(done) > 1:
                jax.block_until_ready(done[-2])
            if stopping():
                break
        return state, done

    return advance


def _is_resident(data: DataPipeline) -> bool:
    if not (hasattr(data, "arrays") and hasattr(data, "rows")):
        return False
    return sum(leaf.nbytes for leaf in jax.tree.leaves(getattr(data, "arrays"))) <= RESIDENT_BYTES  # noqa: B009


def _slow_in_loops(jaxpr: Any) -> bool:
    """Whether a convolution anywhere in a program has another layout than NHWC in and out, and HWIO kernels."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated" and not _is_plain(equation.params):
            return True
        if any(_slow_in_loops(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)):
            return True
    return False


def _is_plain(params: Mapping[str, Any]) -> bool:
    lhs, rhs, out = params["dimension_numbers"]
    rank = len(lhs)
    channels_last = (0, rank - 1, *range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    return (tuple(lhs), tuple(rhs), tuple(out)) == (channels_last, kernel, channels_last) and set(
        params["lhs_dilation"]
    ) == {1}
