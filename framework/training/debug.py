"""JAX's debugging switches, as one context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

from framework.api import PyTree
from framework.arrays import placed
from framework.config.settings import Debug
from framework.errors import NumericalError
from framework.strategy import StrategyWrapper


class Explicit(StrategyWrapper):
    """A strategy whose feed is an explicit transfer, which `jax_transfer_guard` lets pass."""

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Take arrays to the devices, those too that the compiled call would take itself."""
        return placed(self.strategy.feed(feed, axes))


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
