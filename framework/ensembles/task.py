"""Members that train as one program: a task of all from the task of one, and their batches side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, DataPipeline, Members, PipelineWrapper, PyTree, Task, TrainState
from framework.tasks.metrics import WeightedMean
from framework.tasks.nonfinite import spoils
from framework.tasks.rng import root_key

Make = Callable[[Mapping[str, Any]], Task]
"""`make(values) -> Task`, where values are numbers by config key and may be traced."""

Result = Callable[[Any, float], float | Mapping[str, float]]


def population(make: Make, members: Members, results: Mapping[str, Result]) -> Task:
    """The task of all members, mapped over the first axis of every leaf of the state.

    A member whose loss, or what its update made, is not finite is frozen: its state stays what it was before that
    step, so that its step falls behind; that is how it is known from then on. Its metrics have a count of NaN.

    Args:
      make: the task of one member, made anew where a step is traced, since it may hold traced numbers.
      members: their values; "seed" is among them.
      results: of the task of one.
    """
    values = {key: np.asarray(column, np.float32) for key, column in members.values.items() if key != "seed"}
    batch_axis = 0 if members.order == "own" else None

    def init(key: Array, spec: Batch) -> TrainState:
        keys = jnp.stack([root_key(int(seed)) for seed in members.values["seed"]])
        return jax.vmap(lambda key, own: make(own).init(key, spec))(keys, values)

    def train_step(
        state: TrainState, batch: Batch, axis: str | None = None
    ) -> tuple[TrainState, dict[str, WeightedMean]]:
        def one(state: TrainState, batch: Batch, own: Mapping[str, Any]) -> tuple[TrainState, dict[str, WeightedMean]]:
            after, means = make(own).train_step(state, batch, axis)
            return after, dict(means)

        after, means = jax.vmap(one, in_axes=(0, batch_axis, 0))(state, batch, values)
        total, count = means["loss"]
        after, live = _frozen(_live(state) & jnp.isfinite(total), state, after)
        # A loss that is not finite, lest a step of dead members alone pass for sound.
        counted = _counted({**means, "loss": WeightedMean(jnp.where(live, total, jnp.nan), count)}, live)
        return after, {
            **counted,
            "live_members": WeightedMean(live.sum().astype(jnp.float32), jnp.ones([], jnp.float32)),
        }

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> dict[str, WeightedMean]:
        def one(state: TrainState, own: Mapping[str, Any], live: Array) -> dict[str, WeightedMean]:
            return _counted(make(own).eval_step(state, batch, axis), live)

        return jax.vmap(one)(state, values, _live(state))

    each = {name: _for_each(result) for name, result in results.items()}
    return Task(init, train_step, eval_step, {**each, "live_members": lambda total, count: float(total)})


def _live(state: TrainState) -> Array:
    return state.step == state.step.max()


def _frozen(sound: Array, before: TrainState, after: TrainState) -> tuple[TrainState, Array]:
    """The state after a step, in which members that are not sound, or were spoilt by it, stay what they were before.

    Which members those are is looked at closely only in a step that may have some: to compare and select all numbers
    of a state costs as much as an optimizer.

    Returns: the state, and which members are alive: bool [members].
    """

    def closely(after: TrainState) -> tuple[tuple[PyTree, ...], Array]:
        live = sound & ~jax.vmap(spoils)(before[1:4], after[1:4])
        return jax.vmap(_selected)(live, after[:4], before[:4]), live

    quickly = (sound & jax.vmap(_surely_finite)(after[1:4])).all()
    kept, live = jax.lax.cond(quickly, lambda after: (after[:4], sound), closely, after)
    step, params, model_state, opt_state = kept  # the root key never changes
    return TrainState(step, params, model_state, opt_state, before.key), live


def _selected(live: Array, after: PyTree, before: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: jnp.where(live, new, old), after, before)


def _surely_finite(tree: PyTree) -> Array:
    """Whether the sum of each leaf is finite, and so all that it adds up: bool []; of large numbers it may not be."""
    sums = [jnp.isfinite(leaf.sum()) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack(sums).all() if sums else jnp.array(True)


def _counted(means: Mapping[str, Any], live: Array) -> dict[str, WeightedMean]:
    """Means with one count for each member, NaN for those that are not alive."""
    return {name: WeightedMean(total, jnp.where(live, count, jnp.nan)) for name, (total, count) in means.items()}


def _for_each(result: Result) -> Callable[..., dict[str, float]]:
    """The mean over the live members under the tag itself, and the value of each under `<tag>/<member>`."""

    def results(total: Any, count: Any) -> dict[str, float]:
        live = np.flatnonzero(~np.isnan(count))
        each = {member: _by_suffix(result(total[member], float(count[member]))) for member in live}
        suffixes = dict.fromkeys(suffix for values in each.values() for suffix in values)
        means = {suffix: float(np.mean([values[suffix] for values in each.values()])) for suffix in suffixes}
        tagged = {f"{suffix}/{member}".lstrip("/"): value for member in each for suffix, value in each[member].items()}
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
            yield jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
