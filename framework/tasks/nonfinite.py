"""What happens where numbers stop being finite: updates that are undone, and states that are not saved."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, PyTree, Task, TrainState
from framework.errors import NumericalError
from framework.tasks.metrics import WeightedMean

ROLLBACKS = 3
"""How often a run goes back. One bad batch needs one; who needs a fourth has a fault that no batch explains."""


class Guarded(NamedTuple):
    """An optimizer's state beside what is known of updates that were undone.

    Attributes:
      skipped: int32 [], updates undone so far.
      in_row: int32 [], how many of them since the last one that was made.
      barred: int32 [ROLLBACKS], steps whose batch is not used, counted from 1; 0 for none.
      inner: the optimizer's own state.
    """

    skipped: Array
    in_row: Array
    barred: Array
    inner: PyTree


class Rollback(Exception):  # noqa: N818 - a request to the runner, not an error
    """The update of `step` is not finite: go back to the last checkpoint, and go on without its batch."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the update of step {step} is not finite")
        self.step = step


def guarded(task: Task) -> Task:
    """A task whose update is undone if its loss, or anything that it makes of the state, is not finite.

    Parameters, the model's and the optimizer's state are then those from before; the step goes on, and with it keys and
    batches. What results is judged, rather than the gradients: all that is not finite in them is found in it, unless
    the optimizer itself deals with it, as a loss scale or a clipping of values does. A number that was not finite
    before the update, such as the best value of an optimizer that has seen none, does not count against it.

    Args:
      task: what is trained. Its metrics get "skipped": how many updates were undone so far.
    """

    def init(key: Array, spec: Batch) -> TrainState:
        state = task.init(key, spec)
        zero = jnp.zeros([], jnp.int32)
        return state._replace(opt_state=Guarded(zero, zero, jnp.zeros([ROLLBACKS], jnp.int32), state.opt_state))

    def train_step(state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, dict[str, Any]]:
        kept: Guarded = state.opt_state
        before = state._replace(opt_state=kept.inner)
        after, means = task.train_step(before, batch, axis)
        sound = jnp.isfinite(means["loss"][0]) & ~spoils(before[1:4], after[1:4])
        if axis is not None:  # the model's state may differ between devices, what is done must not
            sound = jax.lax.pmin(sound.astype(jnp.int32), axis) == 1
        barred = (kept.barred == after.step).any()
        made = sound & ~barred
        params, model_state, inner = jax.lax.cond(made, lambda *_: after[1:4], lambda *_: before[1:4])
        skipped, in_row = kept.skipped + (~made).astype(jnp.int32), jnp.where(made, 0, kept.in_row + 1)
        counts = jnp.stack([skipped, in_row, (~sound & ~barred).astype(jnp.int32)]).astype(jnp.float32)
        opt_state = Guarded(skipped, in_row, kept.barred, inner)
        after = TrainState(after.step, params, model_state, opt_state, after.key)
        return after, {**means, "skipped": WeightedMean(counts, jnp.ones([], jnp.float32))}

    def eval_step(state: TrainState, batch: Batch, axis: str | None = None) -> Any:
        return task.eval_step(state._replace(opt_state=state.opt_state.inner), batch, axis)

    return Task(init, train_step, eval_step, {**task.results, "skipped": lambda total, count: float(total[0])})


def check_skips(counts: np.ndarray, start: int, limit: int) -> None:
    """Look at what was undone in the steps of a window that began after `start` updates.

    Args:
      counts: [steps, 3], the metric "skipped" of each.
      start: updates before the window.
      limit: how many in a row may be undone; 0 for none, since the run goes back instead.

    Raises: NumericalError where more were; Rollback at the first one if none may be.
    """
    for step, (_, in_row, fault) in enumerate(counts, start + 1):
        if fault and not limit:
            raise Rollback(step)
        if limit and in_row >= limit:
            raise NumericalError(
                f"{limit} updates in a row are not finite, the last at step {step}; find the operation with "
                f"debug=nans, lower optimizer.learning_rate, or allow more with train.skips_in_row."
            )


def barred_steps(state: TrainState) -> tuple[int, ...]:
    """The steps whose batch is not used, as the state holds them."""
    found = [node for node in _nodes(state.opt_state) if isinstance(node, Guarded)]
    return tuple(int(step) for node in found for step in jax.device_get(node.barred) if step)


def barring(state: TrainState, steps: tuple[int, ...]) -> TrainState:
    """The state with other steps whose batch is not used; all others where there are none."""

    def bar(node: Any) -> Any:
        padded = np.array([*steps, *[0] * (ROLLBACKS - len(steps))], np.int32)
        return node._replace(barred=jnp.asarray(padded)) if isinstance(node, Guarded) else node

    return state._replace(opt_state=jax.tree.map(bar, state.opt_state, is_leaf=_is_guarded))


def one_more(barred: tuple[int, ...], fault: Rollback) -> tuple[int, ...]:
    """The steps not to use after one more fault.

    Raises: NumericalError if the run went back often enough.
    """
    if len(barred) >= ROLLBACKS:
        listed = ", ".join(map(str, barred))
        raise NumericalError(
            f"{fault}, after going back {ROLLBACKS} times, for steps {listed}; find the cause with debug=nans."
        )
    return (*barred, fault.step)


def finite_leaves(state: TrainState) -> np.ndarray:
    """Which leaves hold finite numbers only, in the tree's order; what holds no real numbers does."""
    leaves = jax.tree.leaves(state)
    if all(_is_on_host(leaf) for leaf in leaves):  # NumPy looks at them in place; a program would be made first
        return np.array([not _is_real(leaf) or bool(np.isfinite(jax.device_get(leaf)).all()) for leaf in leaves])
    return np.asarray(jax.device_get(_finite_leaves(state)))


def spoilt_leaf(first: np.ndarray, state: TrainState) -> str | None:
    """The path of the first leaf that is not finite although it was at first, if there is one."""
    wrong = np.flatnonzero(first & ~finite_leaves(state))
    paths = [keys for keys, _ in jax.tree.leaves_with_path(state)]
    return jax.tree_util.keystr(paths[wrong[0]], simple=True, separator="/") if len(wrong) else None


@jax.jit
def _finite_leaves(state: TrainState) -> Array:
    return jnp.stack(
        [jnp.isfinite(leaf).all() if _is_real(leaf) else jnp.array(True) for leaf in jax.tree.leaves(state)]
    )


def spoils(before: PyTree, after: PyTree) -> Array:
    """Whether a number that was finite is so no more: bool []."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    spoilt = [(jnp.isfinite(old) & ~jnp.isfinite(new)).any() for old, new in pairs if _is_real(new)]
    return jnp.stack(spoilt).any() if spoilt else jnp.array(False)


def _is_on_host(leaf: Array) -> bool:
    return len(leaf.sharding.device_set) == 1 and next(iter(leaf.devices())).platform == "cpu"


def _is_real(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_guarded(node: Any) -> bool:
    return isinstance(node, Guarded)


def _nodes(tree: PyTree) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_guarded)
