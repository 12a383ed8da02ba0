"""A strategy around another: it passes all on, and who subclasses it changes what they are there for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from framework.contracts import Batch, PyTree, TrainState


@dataclass(frozen=True)
class StrategyWrapper:
    """A strategy as it is, but for what a subclass overrides."""

    strategy: Strategy

    @property
    def devices(self) -> int:
        """As of the strategy."""
        return self.strategy.devices

    def init(self, init: Callable[[Any], Any], given: Any) -> Any:
        """As of the strategy."""
        return self.strategy.init(init, given)

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """What the strategy compiles, as `calling` has it."""
        return self.calling(self.strategy.train(step, axes))

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """What the strategy compiles, as `calling` has it."""
        return self.calling(self.strategy.evaluate(step))

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """As of the strategy."""
        return self.strategy.feed(feed, axes)

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """What the loop calls for a function that the strategy compiled: the same, where no subclass says otherwise."""
        return call


class Members(NamedTuple):
    """Runs that differ in some numbers only, trained as one.

    Attributes:
      size: how many.
      values: for each config key that differs, "seed" or such as "optimizer.learning_rate", one number for each member.
        Where "seed" is missing, all have the seed of the run; where nothing differs, their seeds count up from it.
      order: whether a member's data come in the order of its own seed, or all see those of the run's.
    """

    size: int
    values: Mapping[str, tuple[float, ...]]
    order: Literal["own", "shared"]


class Strategy(Protocol):
    """How the pure functions of a task become compiled ones, and where batches go.

    A strategy may have, beside what stands below:
      members: `Members`. The task that it then compiles is that of all members: every leaf of the state has the members
        as its first axis, and if their orders are their own, so has every leaf of a training batch.
      placement: `placement(shapes) -> shardings`, where it cuts the state: a saved one is read into them leaf by leaf.
      share: `Share`, where it can run in several processes: which parts of a batch the devices of this process take.
        Its `feed` then gets those, one after the other; the means of its steps are the same in all processes.

    Attributes:
      devices: into how many equal parts a batch is cut.
    """

    @property
    def devices(self) -> int: ...

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state as `init(given)`, from a key or from a saved state, placed where the steps want it."""
        ...

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[[TrainState, PyTree], tuple[TrainState, PyTree]]:
        """Compile `step(state, feed, axis)`; the state that goes in is given up to the one that comes out.

        `axes` says for each leaf of the feed, or for a whole part of it, which axis counts examples and may be cut over
        devices: 0 for a batch; None for what every device needs whole.
        """
        ...

    def evaluate(self, step: Callable[..., Any]) -> Callable[[TrainState, Batch], Mapping[str, Any]]:
        """Compile `step(state, batch, axis)`; the state stays valid."""
        ...

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Take NumPy arrays to the devices, in the layout that the steps want; `axes` as for `train`."""
        ...
