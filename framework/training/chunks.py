"""Several steps as one compiled call, and the choice of their number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from framework.console.output import FOR_THE_FILE
from framework.contracts.components import Array, Batch, TrainState
from framework.experiment import Experiment

LOGGER = logging.getLogger("framework")

AUTO_CHUNK = 50
"""Steps in a call by default: dispatch is then some thousandths of even the smallest step."""

STACK_BYTES = 2**27
"""Bytes that the batches stacked for one call take at most by default, unless a single batch takes more."""

Means = Any
Step = Callable[..., tuple[TrainState, Means]]


def is_resident(experiment: Experiment) -> bool:
    """Tell whether the training examples are kept on the devices: they lie in memory, and are not too large."""
    if (memory := experiment.batches.in_memory()) is None:
        return False
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(memory.arrays))
    return size <= experiment.settings.train.resident_mib * 2**20


def steps_per_call(experiment: Experiment, state: TrainState) -> int:
    """Resolve `train.steps_per_call`; "auto" goes by the config and the program alone, so that a resumed run agrees.

    XLA's CPU backend runs a convolution inside a loop body 10 to 20 times slower unless it has the plain NHWC/HWIO
    layout. Gradients that JAX derives have another one, so a step that holds such a convolution is called singly there.
    """
    settings, spec = experiment.settings, experiment.batches.spec
    if settings.debug.nans or settings.debug.infs or settings.debug.eager:
        return 1  # a compiled loop would hide the operation that is looked for
    if settings.train.steps_per_call != "auto":
        return settings.train.steps_per_call
    if jax.default_backend() == "cpu" and _slow_in_loops(jax.make_jaxpr(experiment.task.train_step)(state, spec).jaxpr):
        LOGGER.info(
            "steps_per_call: 1, since a convolution's gradient is slow inside compiled loops on a CPU",
            extra=FOR_THE_FILE,
        )
        return 1
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(spec))
    chosen = AUTO_CHUNK if is_resident(experiment) else min(AUTO_CHUNK, max(1, STACK_BYTES // size))
    LOGGER.info(f"steps_per_call: {chosen}", extra=FOR_THE_FILE)
    return chosen


def chunked(step: Step, capacity: int) -> Callable[..., tuple[TrainState, Means]]:
    """Run up to `capacity` steps in one function `chunk(state, feed, axis) -> (state, means)`.

    The number of steps is a traced value, so one program serves all; how a run is cut into chunks changes no bit of it.

    Args:
      step: `step(state, batch, axis) -> (state, means)`.
      capacity: length of the buffers for the metrics; entries beyond `feed["count"]` stay 0.

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


def _slow_in_loops(jaxpr: Any) -> bool:
    """Tell whether a convolution in a program has another layout than NHWC in and out, and HWIO kernels."""
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
