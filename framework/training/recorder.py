"""Flight recorder: a copy of a sound state, from which the steps up to the first one that is not finite are repeated.

Batch k is a function of (seed, k), and a compiled step repeats itself bit by bit. So nothing is added to the step: to
keep the state from before each update would cost as much as an optimizer, in time and in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, DataPipeline, PyTree, TrainState
from framework.contracts.components import updates
from framework.experiment import Experiment
from framework.steps.metrics import unwrap_keys, wrap_keys
from framework.tasks.nonfinite import lost, spoilt_leaf, surely_finite
from framework.training.chunks import AUTO_CHUNK
from framework.training.evaluation import per_step
from framework.training.stepper import Parts, Program, stepper
from framework.trees import leaves_by_path

PERIOD = 4 * AUTO_CHUNK
"""Steps between two copies, at least. A copy costs about an optimizer's step, and at most so many steps are repeated
twice over: those since the last copy, and those of windows that were not read yet."""


class Fault(NamedTuple):
    """The first step whose loss or new state is not finite, and what it was made of.

    Attributes:
      step: counted from 1.
      what: what was found, such as "train/loss is nan".
      state: before the step; of a member, its own.
      batch: NumPy arrays [B, ...], of all processes together.
      rows: the indices of its examples, int [B], where they lie in memory.
      member: of several, the one that failed; None for a single run.
      trail: for each step that was repeated its "step", "loss", and the norms "update" and "params".
    """

    step: int
    what: str
    state: TrainState
    batch: Batch
    rows: np.ndarray | None
    member: int | None
    trail: list[dict[str, float]]


class Kept(NamedTuple):
    """A state that can be had again."""

    step: int
    state: Callable[[], TrainState]
    is_sound: Any  # bool [], whether each leaf has a finite sum; True for the state that the run began with


class Recorder:
    """Keeps one state that is known to be sound, and perhaps a newer one whose steps were not read yet.

    Attributes:
      newest: the state after the last call; it is valid until the next one.
      ended: members that a callback has ended, whose states stay behind without a fault.
    """

    def __init__(
        self, experiment: Experiment, program: Program, state: TrainState, begin: Callable[[], TrainState]
    ) -> None:
        """Begin with the first state of a run.

        Args:
          state: the first one.
          begin: makes it again, so that no copy is needed before many steps were made.
        """
        self.experiment, self.program = experiment._replace(callbacks=()), program
        self.newest, self.ended = state, set[int]()
        self._sound = Kept(updates(state), begin, True)
        self._next: Kept | None = None

    def look(self, state: TrainState, step: int, is_last: bool) -> None:
        """Take note of the state after a call, and copy it if the last copy is old."""
        self.newest = state
        if self._next is None and step - self._sound.step >= PERIOD and not is_last:
            self._next = _copied(state, step)

    def passed(self, step: int, finite_at_first: np.ndarray) -> str | None:
        """Take note that the losses of all steps up to this one are finite.

        Args:
          step: the last one.
          finite_at_first: for each leaf, whether it was finite before the first step.

        Returns: the path of a leaf that the copied state has lost a finite number in; None if there is none.
        """
        if self._next is None or self._next.step > step:
            return None
        if not jax.device_get(self._next.is_sound):
            spoilt = spoilt_leaf(finite_at_first, self._next.state())
            if spoilt is not None:
                return spoilt
        self._sound, self._next = self._next, None
        return None

    def find(self, upto: int) -> Fault | None:
        """Repeat the steps from the sound state on, up to a given one, and find the first that is not finite.

        Returns: None if none is, as where a device does not repeat its sums bit by bit.
        """
        if (members := self.experiment.members) is not None:
            # Where members evolve, one that froze goes on from another's state, by values that no config has.
            return self._frozen_member() if members.evolution is None else None
        state, start, trail = self._sound.state(), self._sound.step, []
        with stepper(self.experiment, self.program, range(start + 1, upto + 1), start) as advance:
            for step in range(start + 1, upto + 1):
                before = _copied(state, step - 1)
                try:
                    state, parts = advance(state, step - 1, step)
                except FloatingPointError as error:  # of debug=nans
                    return self._fault(step, str(error).splitlines()[0], before.state(), trail)
                spoilt, norms = _compare(unwrap_keys(before.state()), unwrap_keys(state))
                trail.append({"step": step, "loss": _loss(parts), **{name: float(norms[name]) for name in norms}})
                if (what := _unsound(parts, state, np.asarray(spoilt))) is not None:
                    return self._fault(step, what, before.state(), trail)
        return None

    def _frozen_member(self) -> Fault | None:
        """Find the member that froze first: its state is still that from before the step.

        Returns: None if `debug=nans` has ended the step in which one would have frozen.
        """
        made = np.array(jax.device_get(self.newest.step))
        made[list(self.ended)] = made.max()
        member = int(np.argmin(made))
        debug = self.experiment.settings.debug
        if made[member] == made.max() and (debug.nans or debug.infs):
            return None
        state = jax.tree.map(lambda leaf: leaf[member], self.newest)
        return self._fault(int(made[member]) + 1, f"member {member} is not finite", state, [], member)

    def _fault(
        self, step: int, what: str, state: TrainState, trail: list[dict[str, float]], member: int | None = None
    ) -> Fault:
        seed, members = self.experiment.settings.seed, self.experiment.members
        if member is not None and members is not None and members.order == "own":
            seed = int(members.values["seed"][member])
        return Fault(step, what, state, *batch_of(self.experiment.data, seed, step), member, trail)


def batch_of(data: DataPipeline, seed: int, step: int) -> tuple[Batch, np.ndarray | None]:
    """Return the batch of a step, counted from 1, and the indices of its examples, where they lie in memory."""
    memory = data.in_memory()
    rows = None if memory is None else np.asarray(memory.rows(seed, step - 1))
    batches = data.train(seed, step - 1) if memory is None else map(memory.prepare, memory.gathered(seed, step - 1))
    return jax.tree.map(np.asarray, next(batches)), rows


def _loss(parts: Parts) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):  # of a batch without weight
        return float(per_step(parts, "loss")[0] / per_step(parts, "loss", "count")[0])


def _unsound(parts: Parts, state: TrainState, spoilt: np.ndarray) -> str | None:
    """Describe what is not finite in a step: by the step itself where it undoes such updates, else by what it made."""
    total = per_step(parts, "loss")[0]
    if "skipped" in {name for name, *_ in parts[0][0].layout}:
        is_sound = not per_step(parts, "skipped")[0][2]
        return None if is_sound else f"train/loss is {total}" if not np.isfinite(total) else "the update is not finite"
    if not np.isfinite(total):
        return f"train/loss is {total}"
    return f"{list(leaves_by_path(state))[int(np.flatnonzero(spoilt)[0])]} is not finite" if spoilt.any() else None


def _copied(state: TrainState, step: int) -> Kept:
    """Copy a state, on a CPU beside it, else into the host's memory, so that no device holds it twice."""
    leaves, structure = jax.tree.flatten(unwrap_keys(state))
    where = tuple(leaf.sharding for leaf in leaves)
    copies, is_sound = _copier(where)(leaves)
    if jax.default_backend() != "cpu":
        copies = jax.device_put(copies, [each.with_memory_kind("pinned_host") for each in where])

    def again() -> TrainState:  # another copy, which a step may overwrite
        return wrap_keys(jax.tree.unflatten(structure, jax.device_put(copies, list(where), may_alias=False)))

    return Kept(step, again, is_sound)


@lru_cache(maxsize=4)
def _copier(where: tuple[Any, ...]) -> Callable[[list[Array]], tuple[list[Array], Array]]:
    """Compile the copy of leaves with these shardings, and the check whether each of them has a finite sum."""

    def copy(leaves: list[Array]) -> tuple[list[Array], Array]:
        return [jnp.copy(leaf) for leaf in leaves], surely_finite(leaves)

    return jax.jit(copy, out_shardings=(list(where), None))


@jax.jit
def _compare(before: TrainState, after: TrainState) -> tuple[Array, Mapping[str, Array]]:
    """Tell for each leaf whether it has lost a finite number, bool [leaves]; norms of the update and the parameters."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    spoilt = jnp.stack([_lost(old, new) for old, new in pairs])
    change = jax.tree.map(jnp.subtract, after.params, before.params)
    return spoilt, {"update": _norm(change), "params": _norm(before.params)}


def _lost(old: Any, new: Any) -> Array:
    if not jnp.issubdtype(new.dtype, jnp.inexact):
        return jnp.array(False)
    return lost(old, new)


def _norm(tree: PyTree) -> Array:
    sizes = [jnp.abs(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    if not sizes:
        return jnp.zeros([])
    largest = jnp.stack([each.max(initial=0) for each in sizes]).max()  # whose square may overflow
    scale = jnp.maximum(largest, jnp.finfo(jnp.float32).tiny)
    return scale * jnp.sqrt(jnp.stack([jnp.square(each / scale).sum() for each in sizes]).sum())
