"""JAX's debugging switches, as one context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
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


@dataclass(frozen=True)
class OneByOne(StrategyWrapper):
    """A strategy whose steps are made again on one device, op by op, where they made a NaN or an infinity.

    JAX's own switch names no operation of a program that runs on several devices, and stops at numbers that are meant,
    where a step runs op by op anyway.

    Attributes:
      debug: which of the two is looked for.
    """

    debug: Debug

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Return the arrays as they are; each call takes them to the devices."""
        return feed

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Compile a train step, and look at what it returns."""
        return self._looking(self.strategy.train(step, axes), step, axes)

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile an eval step, and look at what it returns."""
        return self._looking(self.strategy.evaluate(step), step, 0)

    def _looking(self, compiled: Callable[..., Any], step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        def call(state: TrainState, feed: PyTree) -> Any:
            # The call may overwrite the state that it is given.
            done = compiled(jax.tree.map(jnp.copy, state), self.strategy.feed(jax.device_get(feed), axes))
            if self._is_caught(done):
                before = jax.device_put(jax.device_get((state, feed)))
                jax.clear_caches()  # an operation that was called before goes unchecked otherwise
                with jax.debug_nans(self.debug.nans), jax.debug_infs(self.debug.infs), jax.disable_jit():
                    step(*before)
            return done

        return call

    def _is_caught(self, done: PyTree) -> bool:
        leaves = [leaf for leaf in jax.tree.leaves(jax.device_get(done)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        is_odd = (lambda leaf: ~np.isfinite(leaf)) if self.debug.infs else np.isnan
        return any(is_odd(leaf).any() for leaf in leaves)


@contextmanager
def switches(debug: Debug) -> Iterator[None]:
    """Turn on the switches of `debug` inside the context.

    Those for NaNs and infinities are left to `OneByOne`, but for several processes, which no step of one process can
    be made again for.

    Raises: NumericalError for what `debug=nans` and `debug=infs` find.
    """
    contexts = [
        (debug.nans and jax.process_count() > 1, lambda: jax.debug_nans(True)),
        (debug.infs and jax.process_count() > 1, lambda: jax.debug_infs(True)),
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
