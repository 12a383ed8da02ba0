"""A strategy around another: it passes all on, and who subclasses it changes what they are there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from framework.api import PyTree, Strategy


@dataclass(frozen=True)
class Around:
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
