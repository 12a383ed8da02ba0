"""Members that train as one program: a task of all from the task of one, and their batches side by side."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, DataPipeline, Members, PipelineWrapper, PyTree, Task, TrainState
from framework.arrays import nan_unless
from framework.ensembles.endings import mean
from framework.ensembles.evolution import COPIES, STATE, Compared, Together, evolving
from framework.errors import ConfigError
from framework.steps.metrics import WeightedMean
from framework.steps.rng import root_key
from framework.tasks.nonfinite import learned, spoils, surely_finite
from framework.trees import stacked

Make = Callable[[Mapping[str, Any]], Task]
"""`make(values) -> Task`, where values are numbers by config key and may be traced."""

Result = Callable[[Any, float], float | Mapping[str, float]]


def population(make: Make, members: Members, results: Mapping[str, Result], compared: Compared | None = None) -> Task:
    """Make the task of all members, mapped over the first axis of every leaf of the state.

    A member is frozen if its loss or its new state is not finite. Its state stays what it was before that step, so that
    its step counter falls behind, which marks it from then on. Its metrics have a count of NaN.

    Args:
      make: makes the task of one member, each time that a step is traced, since the task may hold traced numbers.
      members: with "seed" among the values.
      results: of the task of one member.
      compared: examples and direction by which members that evolve are compared.
    """
    values = {key: np.asarray(column, np.float32) for key, column in members.values.items() if key != "seed"}
    steps, results = _together(make, members), dict(results)
    if members.evolution is not None and compared is not None:
        steps = evolving(steps, members.evolution, compared)
        results |= dict.fromkeys((*(f"{STATE}{key}" for key in values), COPIES), operator.truediv)

    def init(key: Array, spec: Batch) -> TrainState:
        return steps.init(key, spec, values)

    def train_step(
        state: TrainState, batch: Batch, axis: str | None = None
    ) -> tuple[TrainState, dict[str, WeightedMean]]:
        return steps.train_step(state, batch, axis, values)

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> dict[str, WeightedMean]:
        return steps.eval_step(state, batch, axis, values)

    each = {name: _for_each(name, result) for name, result in results.items()}
    return Task(init, train_step, eval_step, {**each, "live_members": lambda total, count: float(total)})


def _together(make: Make, members: Members) -> Together:
    batch_axis = 0 if members.order == "own" else None

    def init(key: Array, spec: Batch, values: Mapping[str, Any]) -> TrainState:
        keys = jnp.stack([root_key(int(seed)) for seed in members.values["seed"]])
        return jax.vmap(lambda key, own: make(own).init(key, spec))(keys, values)

    def train_step(
        state: TrainState, batch: Batch, axis: str | None, values: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, WeightedMean]]:
        def one(state: TrainState, batch: Batch, own: Mapping[str, Any]) -> tuple[TrainState, dict[str, WeightedMean]]:
            after, means = make(own).train_step(state, batch, axis)
            return after, dict(means)

        after, means = jax.vmap(one, in_axes=(0, batch_axis, 0))(state, batch, values)
        total, count = means["loss"]
        after, live = _frozen(_live(state) & jnp.isfinite(total), state, after)
        # The loss of a frozen member is NaN, so that a step of frozen members alone is not taken for sound.
        counted = _counted({**means, "loss": WeightedMean(nan_unless(live, total), count)}, live)
        alive = WeightedMean(live.sum().astype(jnp.float32), jnp.ones([], jnp.float32))
        return after, {**counted, "live_members": alive}

    def eval_step(
        state: TrainState, batch: Batch, axis: str | None, values: Mapping[str, Any]
    ) -> dict[str, WeightedMean]:
        def one(state: TrainState, own: Mapping[str, Any], live: Array) -> dict[str, WeightedMean]:
            return _counted(make(own).eval_step(state, batch, axis), live)

        return jax.vmap(one)(state, values, _live(state))

    return Together(init, train_step, eval_step)


def _live(state: TrainState) -> Array:
    return state.step == state.step.max()


def _frozen(sound: Array, before: TrainState, after: TrainState) -> tuple[TrainState, Array]:
    """Freeze the members that are not sound, or whose update made a number that is not finite.

    A step of which all members are certainly sound skips the close look: to compare and select all numbers of a state
    costs as much as an optimizer.

    Returns: the state, in which frozen members are what they were before, and the members alive: bool [members].
    """
    before, after, key = before._replace(key=()), after._replace(key=()), before.key  # the key never changes

    def closely(after: TrainState) -> tuple[TrainState, Array]:
        live = sound & ~jax.vmap(spoils)(learned(before), learned(after))
        return jax.vmap(_selected)(live, after, before), live

    quickly = (sound & jax.vmap(surely_finite)(learned(after))).all()
    kept, live = jax.lax.cond(quickly, lambda after: (after, sound), closely, after)
    return kept._replace(key=key), live


def _selected(live: Array, after: PyTree, before: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: jnp.where(live, new, old), after, before)


def _counted(means: Mapping[str, Any], live: Array) -> dict[str, WeightedMean]:
    """Give each member a count of its own: float32 [members], NaN for those that are frozen."""
    return {name: mean._replace(count=nan_unless(live, mean.count)) for name, mean in means.items()}


def _for_each(name: str, result: Result) -> Callable[..., dict[str, float]]:
    """Report the mean over the live members under the tag itself, and each member's value under `<tag>/<member>`.

    What is returned raises ConfigError if a suffix of the metric looks like the number of a member.
    """

    def results(total: Any, count: Any) -> dict[str, float]:
        live = np.flatnonzero(~np.isnan(count.reshape(len(count), -1)).any(axis=1))  # [members], or of each example
        each = {member: _by_suffix(result(total[member], count[member])) for member in live}
        suffixes = dict.fromkeys(suffix for values in each.values() for suffix in values)
        found = {suffix: [values[suffix] for values in each.values() if suffix in values] for suffix in suffixes}
        means = {suffix: mean(values) for suffix, values in found.items()}
        tagged = {f"{suffix}/{member}".lstrip("/"): value for member in each for suffix, value in each[member].items()}
        if both := sorted(means.keys() & tagged.keys()):
            text = f"its number '{both[0]}' has the tag of a member; let the metric give it a suffix with a letter"
            raise ConfigError(f"{text}, or train one member.", key=f"metrics.{name}")
        return {**means, **tagged}

    return results


def _by_suffix(result: float | Mapping[str, float]) -> Mapping[str, float]:
    return result if isinstance(result, Mapping) else {"": result}


class OwnOrders(PipelineWrapper):
    """The training batches of all members side by side, each in the order of its member's seed.

    Leaves are [members, B, ...], and indices of examples in memory [members, B]. Evaluation batches stay as they are.
    """

    def __init__(self, data: DataPipeline, seeds: Sequence[float]) -> None:
        super().__init__(data)
        self.spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(seeds), *leaf.shape), leaf.dtype), data.spec)
        self.seeds = [int(seed) for seed in seeds]

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Return the indices of each member's batch; the members' seeds count, not the one of the run."""
        return np.stack([self._examples.rows(own, step) for own in self.seeds])

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, …; the members' seeds count, not the one of the run."""
        for batches in zip(*(self.data.train(own, start) for own in self.seeds), strict=True):
            yield stacked(batches)
