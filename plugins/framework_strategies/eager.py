"""No compilation, so that every operation can be stepped through."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

from framework.api import PyTree, Strategy, TrainState


class Eager(Strategy):
    """Run under `jax.disable_jit`: prints, breakpoints and Python errors stand at the operation they belong to."""

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Run init op by op."""
        return _uncompiled(init)(given)

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Return the step, uncompiled."""
        return _uncompiled(step)

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return the step, uncompiled."""
        return _uncompiled(step)

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Copy to the default device."""
        return jax.device_put(feed)


def eager() -> Strategy:
    """No compilation: slow, and every value can be printed or stepped through."""
    return Eager()


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.disable_jit():
            return function(*args, **kwargs)

    return run
