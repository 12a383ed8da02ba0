"""Blame: an error that a plugin raises, or a result against its contract, becomes one line that names the plugin.

Of our own plugins a fault stays what it is: an internal error, or components that do not fit together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from framework.api import PyTree, StrategyWrapper, TargetedLoss, TrainState, WeightedLoss
from framework.errors import ConfigError, FrameworkError, PluginError, blaming
from framework.registry.entry_points import OURS, Plugin
from framework.registry.kinds import KINDS, calls_of
from framework.registry.returns import RETURNS
from framework.trees import shapes_text


def fault(plugin: Plugin, text: str, key: str) -> FrameworkError:
    """Make the error for a component that does not fit: of ours the config is wrong, else the plugin."""
    if plugin.distribution == OURS:
        return ConfigError(text, key=key)
    return PluginError(f"{plugin.title}: {text}", key=key)


def answerable(plugin: Plugin, built: Any, key: str) -> Any:
    """Let the functions of a component name their plugin for what they raise, and for what they return amiss.

    Args:
      built: lifted to its contract. Objects with methods, such as callbacks, pass as they are: who calls them blames.
    """
    forms = {name: form for name, _, form in calls_of(KINDS[plugin.kind]) if form}
    if plugin.distribution == OURS or not forms:
        return built
    # `debug=nans` looks for the floating-point error of an operation, and names it better.
    passing = (FloatingPointError, *((OSError,) if plugin.kind == "stores" else ()))

    def guard(name: str, function: Callable[..., Any], form: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with blaming(
                f"{plugin.title} fails{name and f' in {name}'}{_given(plugin.kind, name, args)}", key, passing
            ):
                result = function(*args, **options)
                RETURNS[form](result, args)
            return result

        return call

    if "" in forms:
        if isinstance(built, TargetedLoss | WeightedLoss):
            return replace(built, values=guard("", built.values, forms[""]))
        return guard("", built, forms[""])
    return built._replace(**{name: guard(name, getattr(built, name), form) for name, form in forms.items()})


def _given(kind: str, name: str, args: tuple[Any, ...]) -> str:
    """Describe what a function was given, where its shapes help to find the mistake."""
    if kind == "tasks":
        return ""
    if name == "init" and len(args) == 2:
        return f" for the shape {args[1]}"
    if name == "apply":
        return f" on inputs {shapes_text(args[2])}"
    if name in ("", "values") and len(args) == 2 and isinstance(args[1], Mapping) and "targets" in args[1]:
        return f" on outputs {shapes_text(args[0])} and targets {shapes_text(args[1]['targets'])}"
    return ""


@dataclass(frozen=True)
class NamedStrategy(StrategyWrapper):
    """A strategy that is named for what it raises, and for what it returns against its contract.

    Attributes:
      title: of the plugin, for messages.
    """

    title: str

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state."""
        return self._told("init", _expect_state, self.strategy.init, init, given)

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Compile a train step."""
        call = self._told("train", _expect_function, self.strategy.train, step, axes)
        return lambda state, feed: self._told("a train step", _expect_pair, call, state, feed)

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile an eval step."""
        call = self._told("evaluate", _expect_function, self.strategy.evaluate, step)
        return lambda state, batch: self._told("an eval step", _expect_mapping, call, state, batch)

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Take arrays to the devices."""
        return self._told("feed", lambda fed: None, self.strategy.feed, feed, axes)

    def placement(self, shapes: TrainState) -> TrainState:
        """Return the shapes with shardings."""
        return self._told("placement", _expect_state, self.strategy.placement, shapes)

    def _told(self, name: str, check: Callable[[Any], None], function: Callable[..., Any], *args: Any) -> Any:
        # debug=nans raises FloatingPointError through a compiled call.
        with blaming(f"{self.title} fails in {name}", "strategy", passing=(FloatingPointError,)):
            result = function(*args)
            check(result)
        return result


def _expect_state(result: Any) -> None:
    if not isinstance(result, TrainState):
        raise TypeError(f"expected a TrainState, found {result!r}")


def _expect_function(result: Any) -> None:
    if not callable(result):
        raise TypeError(f"expected a function, found {result!r}")


def _expect_pair(result: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"expected (state, metrics), found {type(result).__name__}")


def _expect_mapping(result: Any) -> None:
    if not isinstance(result, Mapping):
        raise TypeError(f"expected a mapping of metrics, found {type(result).__name__}")
