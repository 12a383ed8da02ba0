"""Numbers that are not finite: updates that are undone, and states that are not saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from framework.api import Array, Batch, PyTree, Task, TrainState
from framework.errors import NumericalError
from framework.steps.metrics import WeightedMean
from framework.tasks.ema import Averaged
from framework.trees import leaves_by_path

ROLLBACKS = 3
"""Largest number of times that a run goes back. One bad batch needs one; no batch explains a fourth fault."""


FIND = "find the operation with debug=nans"
"""Advice where no step was kept to be looked at."""


class Guarded(NamedTuple):
    """An optimizer's state beside the counts of updates that were undone."""

    skipped: Array  # int32 [], updates undone so far
    in_row: Array  # int32 [], updates undone since the last one that was made
    barred: Array  # int32 [ROLLBACKS], steps whose batch is not used, counted from 1; 0 for none
    inner: PyTree  # the optimizer's own state


class Rollback(Exception):  # noqa: N818 - a request to the run, not an error
    """The update of `step` is not finite: go back to the last checkpoint, and go on without its batch.

    Attributes:
      advice: how its cause is found, where the run ends with it.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"the update of step {step} is not finite")
        self.step, self.advice = step, FIND


def guarded(task: Task) -> Task:
    """Undo each update of a task whose loss or new state is not finite.

    Parameters, the model's and the optimizer's state are then those from before the update. The step counter goes on,
    and with it keys and batches. The new state is checked, not the gradients: all that is not finite in them is found
    in it, unless the optimizer itself deals with it, as a loss scale or a clipping of values does. A number that was
    not finite before the update, such as the best value of an optimizer that has seen none, does not count.

    Args:
      task: the task to guard. Its metrics get "skipped", the number of updates undone so far.
    """

    def init(key: Array, spec: Batch) -> TrainState:
        state = task.init(key, spec)
        return state._replace(opt_state=_counting(state.opt_state))

    def train_step(state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, dict[str, Any]]:
        kept: Guarded = state.opt_state
        before = state._replace(opt_state=kept.inner)
        after, means = task.train_step(before, batch, axis)
        sound = jnp.isfinite(means["loss"][0]) & ~spoils(learned(before), learned(after))
        if axis is not None:  # the model's state may differ between devices, the decision must not
            sound = jax.lax.pmin(sound.astype(jnp.int32), axis) == 1
        barred = (kept.barred == after.step).any()
        made = sound & ~barred
        chosen = jax.lax.cond(made, lambda: learned(after), lambda: learned(before))
        params, model_state, inner, task_state = chosen
        skipped, in_row = kept.skipped + (~made).astype(jnp.int32), jnp.where(made, 0, kept.in_row + 1)
        counts = jnp.stack([skipped, in_row, (~sound & ~barred).astype(jnp.int32)]).astype(jnp.float32)
        opt_state = Guarded(skipped, in_row, kept.barred, inner)
        after = after._replace(params=params, model_state=model_state, opt_state=opt_state, task_state=task_state)
        return after, {**means, "skipped": WeightedMean(counts, jnp.ones([], jnp.float32))}

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> Any:
        return task.eval_step(state._replace(opt_state=state.opt_state.inner), batch, axis)

    results = {**task.results, "skipped": lambda total, count: float(total[0])}
    directions = {**task.directions, "skipped": False}
    return task._replace(init=init, train_step=train_step, eval_step=eval_step, results=results, directions=directions)


def toggled(state: TrainState) -> TrainState:
    """Return a state with counts of 0 if it has none, else without them: that of the same run by another policy."""
    if any(map(_is_counting, jax.tree.leaves(state, is_leaf=_is_counting))):
        return jax.tree.map(lambda node: node.inner if _is_counting(node) else node, state, is_leaf=_is_counting)
    if isinstance(state.opt_state, Averaged):
        return state._replace(opt_state=state.opt_state._replace(inner=_counting(state.opt_state.inner)))
    return state._replace(opt_state=_counting(state.opt_state))


def _counting(inner: PyTree) -> Guarded:
    zero = jnp.zeros([], jnp.int32)
    return Guarded(zero, zero, jnp.zeros([ROLLBACKS], jnp.int32), inner)


def _is_counting(node: Any) -> bool:
    return isinstance(node, Guarded)


def check_skips(counts: np.ndarray, start: int, limit: int, find: Callable[[int], str]) -> list[int]:
    """Check the updates that were undone in a window of steps.

    Args:
      counts: [steps, 3], the metric "skipped" of each.
      start: updates before the window.
      limit: the number in a row at which the run ends; 0 if the run goes back at the first.
      find: `find(step)` returns advice on how to find the cause, and on what to change.

    Returns: the steps whose update was undone.

    Raises: NumericalError at the limit; Rollback at the first one if the limit is 0.
    """
    undone = []
    for step, (_, in_row, fault) in enumerate(counts, start + 1):
        if fault and not limit:
            raise Rollback(step)
        undone += [step] if fault else []
        if limit and in_row >= limit:
            raise NumericalError(
                f"{limit} updates in a row are not finite, the last at step {step}; {find(step)}, or allow "
                "more with train.skips_in_row."
            )
    return undone


def barred_steps(state: TrainState) -> tuple[int, ...]:
    """Return the steps whose batch is not used, as the state holds them."""
    found = optax.tree_utils.tree_get_all_with_path(state.opt_state, "barred")
    return tuple(int(step) for _, barred in found for step in jax.device_get(barred) if step)


def barring(state: TrainState, steps: tuple[int, ...]) -> TrainState:
    """Set the steps whose batch is not used; a state that is not guarded stays as it is."""

    def bar(node: Any) -> Any:
        padded = np.array([*steps, *[0] * (ROLLBACKS - len(steps))], np.int32)
        return node._replace(barred=jnp.asarray(padded)) if _is_counting(node) else node

    return state._replace(opt_state=jax.tree.map(bar, state.opt_state, is_leaf=_is_counting))


def one_more(barred: tuple[int, ...], fault: Rollback) -> tuple[int, ...]:
    """Add the step of one more fault to those whose batch is not used.

    Raises: NumericalError if the run went back often enough.
    """
    if len(barred) >= ROLLBACKS:
        listed = ", ".join(map(str, barred))
        raise NumericalError(f"{fault}, after going back {ROLLBACKS} times, for steps {listed}; {fault.advice}.")
    return (*barred, fault.step)


def finite_leaves(state: TrainState) -> np.ndarray:
    """Tell for each leaf, in the tree's order, whether all its numbers are finite: bool [leaves].

    Integers and keys are finite.
    """
    leaves = jax.tree.leaves(state)
    if all(_is_on_host(leaf) for leaf in leaves):  # NumPy reads them in place, without a compilation
        return np.array([not _is_real(leaf) or bool(np.isfinite(jax.device_get(leaf)).all()) for leaf in leaves])
    return np.asarray(jax.device_get(_finite_leaves(state)))


def spoilt_leaf(first: np.ndarray, state: TrainState) -> str | None:
    """Return the path of the first leaf that is not finite although it was at first, or None."""
    wrong = np.flatnonzero(first & ~finite_leaves(state))
    return list(leaves_by_path(state))[wrong[0]] if len(wrong) else None


@jax.jit
def _finite_leaves(state: TrainState) -> Array:
    return jnp.stack(
        [jnp.isfinite(leaf).all() if _is_real(leaf) else jnp.array(True) for leaf in jax.tree.leaves(state)]
    )


def learned(state: TrainState) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """Return the parts of a state that an update changes, beside the step."""
    return state.params, state.model_state, state.opt_state, state.task_state


def spoils(before: PyTree, after: PyTree) -> Array:
    """Tell whether a number that was finite before is not finite after: bool []."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    spoilt = [lost(old, new) for old, new in pairs if _is_real(new)]
    return jnp.stack(spoilt).any() if spoilt else jnp.array(False)


def lost(old: Array, new: Array) -> Array:
    """Tell whether a real leaf [...] has lost a number that was finite: bool []."""
    return (jnp.isfinite(old) & ~jnp.isfinite(new)).any()


def surely_finite(tree: PyTree) -> Array:
    """Tell whether the sum of each leaf is finite, and so each of its numbers: bool []. Large sums may overflow."""
    sums = [jnp.isfinite(leaf.sum()) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack(sums).all() if sums else jnp.array(True)


def _is_on_host(leaf: Array) -> bool:
    return len(leaf.sharding.device_set) == 1 and next(iter(leaf.devices())).platform == "cpu"


def _is_real(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
