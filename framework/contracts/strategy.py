"""Strategies: the contract of what compiles a task and places its data, a wrapper of one, and a process's share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from framework.contracts.components import Array, Batch, TrainState
from framework.errors import ConfigError
from framework.trees import PyTree


class Share(NamedTuple):
    """The part of every batch that one process makes: the examples that its own devices take.

    A batch of B examples is cut into `of` equal parts, in order. Processes may have parts in common, where several
    devices take the same examples.

    Attributes:
      parts: numbers of this process's parts, ascending, from 0.
      of: number of parts of a batch.
    """

    parts: Sequence[int]
    of: int

    def rows(self, size: int) -> np.ndarray:
        """Return the positions of the examples in a batch of `size`, int32, ascending.

        Raises: ConfigError if the batch cannot be cut into equal parts.
        """
        each = _divided(size, self.of)
        return np.concatenate([np.arange(part * each, (part + 1) * each, dtype=np.int32) for part in self.parts])

    def each(self, held: int) -> int:
        """Return the number of examples in one part, if this process has `held` of a batch.

        Raises: ConfigError if its parts are not equal.
        """
        return _divided(held, len(self.parts))


def _divided(size: int, count: int) -> int:
    if size % count:
        raise ConfigError(
            f"data: a batch of {size} examples does not divide over {count} devices; take a multiple of that, such as "
            f"data.batch_size={-(-size // count) * count}, or eval_batch_size where it is one of an evaluation."
        )
    return size // count


class Evolution(NamedTuple):
    """Turns at which members take each other's states and change their values, within the compiled step.

    Attributes:
      every: updates between two turns.
      metric: a mean over examples by which members are compared on the evaluation's first split, such as "loss".
      turn: `turn(key, scores, values) -> (sources, values)`, pure. Scores are float32 [members]; low ones are good, and
        infinity is that of a member whose numbers were lost. Values are float32 [members] by config key. Sources are
        int32 [members]: the member whose state each goes on from, perhaps itself.
      bounds: by config key, the least and the greatest value.
    """

    every: int
    metric: str
    turn: Callable[[Array, Array, Mapping[str, Array]], tuple[Array, Mapping[str, Array]]]
    bounds: Mapping[str, tuple[float, float]]


class Members(NamedTuple):
    """Runs that differ in some numbers only, trained as one.

    Attributes:
      size: number of runs.
      values: for each config key that differs, "seed" or such as "optimizer.learning_rate", one number for each member.
        Where "seed" is missing, all have the seed of the run; where nothing differs, their seeds count up from it.
      order: "own" if a member's data come in the order of its own seed, "shared" if all see those of the run's.
      evolution: of members whose values change while they train; their seeds count up. None for values that stay.
    """

    size: int
    values: Mapping[str, tuple[float, ...]]
    order: Literal["own", "shared"]
    evolution: Evolution | None = None


class Strategy(ABC):
    """The way in which the pure functions of a task become compiled ones, and batches go to devices.

    Attributes:
      devices: number of equal parts into which a batch is cut; 1 by default.
      members: the runs that are trained as one, or None for a single run. With members, the task is that of all of
        them: every leaf of the state has the members as its first axis, and if their orders are their own, so has every
        leaf of a training batch.
      share: the parts of a batch that the devices of this process take, or None if the strategy runs in one process
        only. `feed` is given those parts; the means of the steps must be the same in all processes.
    """

    devices: int = 1
    members: Members | None = None
    share: Share | None = None

    @abstractmethod
    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state as `init(given)`, from a seed or from a saved state, placed where the steps want it."""

    @abstractmethod
    def train(self, step: Callable[..., Any], axes: Any) -> Callable[[TrainState, PyTree], tuple[TrainState, PyTree]]:
        """Compile `step(state, feed, axis)`, which may overwrite the state that goes in.

        Args:
          axes: for each leaf of the feed, or for a whole part of it, the axis that counts examples and may be cut over
            devices, such as 0 for a batch; None for what every device needs whole.
        """

    @abstractmethod
    def evaluate(self, step: Callable[..., Any]) -> Callable[[TrainState, Batch], Mapping[str, Any]]:
        """Compile `step(state, batch, axis)`; the state stays valid."""

    @abstractmethod
    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Take NumPy arrays to the devices, in the layout that the steps want; `axes` as for `train`."""

    def placement(self, shapes: TrainState) -> TrainState:
        """Return the shapes of a state with a sharding for each leaf that is cut: a saved state is read into them.

        Args:
          shapes: a state with `jax.ShapeDtypeStruct` leaves. By default it is returned as it is.
        """
        return shapes


@dataclass(frozen=True)
class StrategyWrapper(Strategy):
    """A strategy that forwards to another one. A subclass overrides what it changes.

    Attributes:
      strategy: the wrapped strategy.
    """

    strategy: Strategy

    @property
    def devices(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of equal parts into which a batch is cut."""
        return self.strategy.devices

    @property
    def members(self) -> Members | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The runs that are trained as one."""
        return self.strategy.members

    @property
    def share(self) -> Share | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The parts of a batch that this process takes."""
        return self.strategy.share

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state."""
        return self.strategy.init(init, given)

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Compile a train step, and pass it through `calling`."""
        return self.calling(self.strategy.train(step, axes))

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile an eval step, and pass it through `calling`."""
        return self.calling(self.strategy.evaluate(step))

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Take arrays to the devices."""
        return self.strategy.feed(feed, axes)

    def placement(self, shapes: TrainState) -> TrainState:
        """Return the shapes with shardings."""
        return self.strategy.placement(shapes)

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that is called in place of a compiled one; by default the compiled one itself."""
        return call
