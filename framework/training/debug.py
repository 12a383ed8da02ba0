"""JAX's debugging switches, as one context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np

from framework.api import PyTree, TrainState
from framework.arrays import placed
from framework.config.settings import Debug
from framework.contracts.strategy import StrategyWrapper
from framework.errors import NumericalError


class Explicit(StrategyWrapper):
    """A strategy whose feed is an explicit transfer, which `jax_transfer_guard` lets pass."""

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Take arrays to the devices, those too that the compiled call would take itself."""
        return placed(self.strategy.feed(feed, axes))


class OneByOne(StrategyWrapper):
    """A strategy of several devices whose steps are made again on one device, op by op, where they made a NaN.

    JAX's own switch cannot name an operation of a program that runs on several devices.
    """

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Return the arrays as they are; each call takes them to the devices."""
        return feed

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Compile a train step, and look at what it returns."""
        compiled = self.strategy.train(step, axes)

        def call(state: TrainState, feed: PyTree) -> Any:
            before, feed = jax.device_get((state, feed))  # the call may overwrite the state
            with jax.debug_nans(False), jax.debug_infs(False):
                done = compiled(state, self.strategy.feed(feed, axes))
                finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(done)))
            if not finite:
                with jax.disable_jit():
                    step(*jax.device_put((before, feed)))
            return done

        return call

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile an eval step; a loss that is not finite is found by the loop."""
        compiled = self.strategy.evaluate(step)

        def call(state: TrainState, batch: PyTree) -> Any:
            with jax.debug_nans(False), jax.debug_infs(False):
                return compiled(state, self.strategy.feed(jax.device_get(batch), 0))

        return call


@contextmanager
def switches(debug: Debug) -> Iterator[None]:
    """Turn on the switches of `debug` inside the context.

    `jax_debug_nans` and `jax_debug_infs` run a step that made a NaN again, op by op, to name the operation; JAX keeps
    donated inputs alive for it.

    Raises: NumericalError for what `debug=nans` and `debug=infs` find.
    """
    contexts = [
        (debug.nans, lambda: jax.debug_nans(True)),
        (debug.infs, lambda: jax.debug_infs(True)),
        (debug.eager, lambda: jax.disable_jit()),
        (debug.leaks, lambda: jax.checking_leaks()),
        (debug.keys, lambda: jax.debug_key_reuse(True)),
        (debug.transfers, lambda: jax.transfer_guard("disallow")),
        (debug.compiles, lambda: jax.log_compiles(True)),
        (debug.compiles, lambda: jax.explain_cache_misses(True)),
        (debug.checks, lambda: jax.enable_checks(True)),
    ]
    with ExitStack() as stack:
        for wanted, context in contexts:
            if wanted:
                stack.enter_context(context())
        try:
            yield
        except FloatingPointError as error:
            raise NumericalError(str(error)) from error
