"""Members that take each other's states and change their values while they train, within the compiled step.

The values are part of the state, beside the optimizer's. So a run that goes on from a checkpoint takes the same turns,
and how a run is cut into calls changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, Evolution, PyTree, TrainState, WeightedMean, step_key, stream
from framework.errors import ConfigError
from framework.tasks.ema import Averaged
from framework.trees import stacked

STATE = "evolving/"
"""Beginning of the metrics of a training step that say what a member is, such as a value by its config key."""

COPIES = f"{STATE}copies"
"""Metric of a training step: how often a member has gone on from the state of another one."""

MOST_EXAMPLES = 2**26
"""Bytes of examples that a compiled step may hold."""


class Evolving(NamedTuple):
    """An optimizer's state beside what evolves."""

    values: Mapping[str, Array]  # float32 [members], by config key
    copies: Array  # int32 [members], times that a member has taken another one's state
    inner: PyTree  # the optimizer's own state


class Compared(NamedTuple):
    """Metric by which members are compared.

    Attributes:
      examples: batches of an evaluation, stacked: leaves [batches, B, ...].
      sign: 1 if low values of the metric are good, -1 if high ones are.
    """

    examples: PyTree
    sign: int


class Together(NamedTuple):
    """The functions of a task, mapped over members whose values each call is given.

    Attributes:
      init: `init(key, spec, values) -> state`.
      train_step: `train_step(state, batch, axis, values) -> (state, means)`.
      eval_step: `eval_step(state, batch, axis, values) -> means`.
    """

    init: Callable[..., TrainState]
    train_step: Callable[..., tuple[TrainState, dict[str, WeightedMean]]]
    eval_step: Callable[..., dict[str, WeightedMean]]


def compared(evolution: Evolution, directions: Mapping[str, bool | None], batches: Iterator[Batch]) -> Compared:
    """Take the examples of an evaluation, and the direction of the metric.

    Raises: ConfigError for a metric that does not exist or has no direction, or examples that are too large.
    """
    tag, taken, size = f"eval/{evolution.metric}", [], 0
    if directions.get(tag) is None:
        text = "the evaluation has no such metric that says which way is better"
        known = ", ".join(name.removeprefix("eval/") for name, way in directions.items() if way is not None)
        raise ConfigError(f"{text}; expected one of {known}.", key="strategy.metric")
    for batch in batches:
        size += sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(batch))
        if size > MOST_EXAMPLES and taken:
            break
        taken.append(batch)
    return Compared(stacked(taken), -1 if directions[tag] else 1)


def evolving(steps: Together, evolution: Evolution, by: Compared) -> Together:
    """Return the functions of members with a turn after every `evolution.every` updates, before the next one.

    Args:
      steps: of members whose values stay.
      evolution: the rule.
      by: what members are compared by.
    """

    def init(key: Array, spec: Batch, values: Mapping[str, Any]) -> TrainState:
        state = steps.init(key, spec, values)
        began = {key: jnp.asarray(column) for key, column in values.items()}
        return _with_optimizer(state, lambda inner: Evolving(began, jnp.zeros(state.step.shape, jnp.int32), inner))

    def train_step(
        state: TrainState, batch: Batch, axis: str | None, _: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, WeightedMean]]:
        kept, state = _taken(state)
        step = state.step.max()
        is_due = (step > 0) & (step % evolution.every == 0)
        # A turn comes before the step, so that a run does not end with values that nothing was trained with.
        state, values, sources = jax.lax.cond(is_due, lambda: turned(state, kept.values), lambda: stayed(state, kept))
        after, means = steps.train_step(state, batch, axis, values)
        copies = kept.copies + (sources != jnp.arange(len(sources))).astype(jnp.int32)
        ones = jnp.where(jnp.isnan(means["loss"].count), jnp.nan, jnp.ones(copies.shape, jnp.float32))
        told = {**{f"{STATE}{key}": value for key, value in values.items()}, COPIES: copies.astype(jnp.float32)}
        means |= {name: WeightedMean(value, ones) for name, value in told.items()}
        return _with_optimizer(after, lambda inner: Evolving(values, copies, inner)), means

    def turned(state: TrainState, values: Mapping[str, Array]) -> tuple[TrainState, Mapping[str, Array], Array]:
        key = stream(step_key(state.key[0], state.step.max()), "evolution")
        sources, values = evolution.turn(key, scores(state, values), values)
        copied = jax.tree.map(lambda leaf: leaf[sources], state._replace(key=()))
        return copied._replace(key=state.key), dict(values), sources

    def stayed(state: TrainState, kept: Evolving) -> tuple[TrainState, Mapping[str, Array], Array]:
        return state, kept.values, jnp.arange(len(kept.copies), dtype=jnp.int32)

    def scores(state: TrainState, values: Mapping[str, Array]) -> Array:
        def one(sums: tuple[Array, Array], batch: Batch) -> tuple[tuple[Array, Array], None]:
            total, count = steps.eval_step(state, batch, None, values)[evolution.metric]
            if total.shape != state.step.shape:
                raise ConfigError(f"{evolution.metric} is no mean over examples.", key="strategy.metric")
            return (sums[0] + total, sums[1] + count), None

        nothing = jnp.zeros(state.step.shape, jnp.float32)
        (total, count), _ = jax.lax.scan(one, (nothing, nothing), by.examples)
        found = by.sign * total / count  # the count of a frozen member is NaN
        return jnp.where(jnp.isfinite(found), found, jnp.inf)

    def eval_step(state: TrainState, batch: Batch, axis: str | None, _: Mapping[str, Any]) -> Any:
        kept, state = _taken(state)
        return steps.eval_step(state, batch, axis, kept.values)

    return Together(init, train_step, eval_step)


def evolved_values(state: TrainState) -> dict[str, tuple[float, ...]]:
    """Return the values that a state of all members holds, by config key; none if they do not evolve."""
    kept = state.opt_state.inner if isinstance(state.opt_state, Averaged) else state.opt_state
    if not isinstance(kept, Evolving):
        return {}
    return {key: tuple(np.asarray(jax.device_get(column)).tolist()) for key, column in kept.values.items()}


def plain(state: TrainState) -> TrainState:
    """Return a state, of all members or of one, without what evolves: as the task of one member has it."""
    return _with_optimizer(state, lambda inner: inner.inner if isinstance(inner, Evolving) else inner)


def _taken(state: TrainState) -> tuple[Evolving, TrainState]:
    """Take what evolves out of a state."""
    kept = state.opt_state.inner if isinstance(state.opt_state, Averaged) else state.opt_state
    return kept, plain(state)


def _with_optimizer(state: TrainState, change: Callable[[PyTree], PyTree]) -> TrainState:
    """Change the optimizer's own state, which lies beside an average of the parameters where a run has one."""
    if isinstance(state.opt_state, Averaged):
        return state._replace(opt_state=state.opt_state._replace(inner=change(state.opt_state.inner)))
    return state._replace(opt_state=change(state.opt_state))
