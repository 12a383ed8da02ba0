"""One component from its name and options: looked up, checked against its signature, called, and checked again."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from framework.api import Callback, Loss, Metric, Model, Schedule, Store, Transform, as_metric, as_model, as_optimizer
from framework.errors import ConfigError, FrameworkError, PluginError
from framework.registry.entry_points import Plugin, Registry
from framework.registry.kinds import CALLS, KINDS, METHODS
from framework.registry.signatures import Option, Schema, bind, freeze, is_component, schema_of

CONTRACTS: dict[Any, str] = {
    Model: "layers",
    optax.GradientTransformation: "optimizers",
    Loss: "losses",
    Metric: "metrics",
    Schedule: "schedules",
    Transform: "transforms",
    Store: "stores",
}
"""Annotations of factory parameters that stand for a component: a config names it, the core builds it."""


class Builder:
    """Builds components and notes which plugins were used, for the run record.

    Attributes:
      used: plugins by the config key that named them.
      rate: the schedule that optimizers get as `learning_rate` where their options leave it out.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.used: dict[str, Plugin] = {}
        self.rate: Schedule | None = None
        self._builds = {
            annotation: lambda value, key, kind=kind: self.entry(kind, value, key)
            for annotation, kind in CONTRACTS.items()
        }

    def named(self, kind: str, config: Mapping[str, Any], key: str) -> Any:
        """Build from a config section: a mapping of `name` and options.

        Raises: ConfigError or PluginError, in one line that names the key and who registered the plugin.
        """
        name = config.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"{key}.name: expected the name of a {KINDS[kind]}, found {name!r}.")
        options = {option: value for option, value in config.items() if option != "name"}
        return self._build(self.registry.find(kind, name, f"{key}.name"), options, key)

    def entry(self, kind: str, value: Any, key: str) -> Any:
        """Build from an entry of a list: `Relu`, `{Dense: 10}`, `{Conv: [16, [5, 5]]}` or `{Conv: {out_chan: 16}}`."""
        if isinstance(value, str):
            return self._build(self.registry.find(kind, value, key), {}, key)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return self.named(kind, value, key)
        if isinstance(value, Mapping) and len(value) == 1:
            ((name, options),) = value.items()
            plugin = self.registry.find(kind, str(name), key)
            return self._build(plugin, {} if options is None else options, f"{key}.{name}")
        raise ConfigError(f"{key}: expected the name of a {KINDS[kind]} or {{name: options}}, found {value!r}.")

    def finish(self, built: Any, key: str) -> None:
        """Wait for what the factory of `key` left to a thread, where what it built has a method `ready`.

        Raises: what is wrong with it, as the factory itself would have.
        """
        if (ready := getattr(built, "ready", None)) is not None:
            _call(ready, (), {}, key, _label(self.used[key]))

    def _build(self, plugin: Plugin, options: Any, key: str) -> Any:
        kind, self.used[key] = plugin.kind, plugin
        label = _label(plugin)
        factory = plugin.load()
        schema = schema_of(factory)
        positional, given = _arguments(schema, options, key, label)
        if kind == "optimizers" and self.rate is not None and any(o.name == "learning_rate" for o in schema.options):
            given.setdefault("learning_rate", self.rate)
        bound = {} if positional else bind(schema, given, key, label, self._builds)
        built = _call(factory, positional, bound, key, label)
        adapted = _adapt(kind, built, plugin.name, label)
        _check_calls(kind, adapted, label)
        return adapted


def _label(plugin: Plugin) -> str:
    return f"{KINDS[plugin.kind]} '{plugin.name}' ({plugin.owner})"


def _arguments(schema: Schema, options: Any, key: str, label: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments from `{…}`, `[…]` or one value, which may be a component `{name: options}`."""
    if isinstance(options, Mapping) and not _is_wrapped(schema, options):
        return (), dict(options)
    values = options if isinstance(options, list | tuple) else [options]
    if isinstance(options, list | tuple) and schema.options and _takes_sequence(schema.options[0]):
        values = [options]
    if schema.variadic and not schema.options:
        return tuple(freeze(value) for value in values), {}
    if len(values) > len(schema.options):
        raise ConfigError(f"{key}: {label} takes {len(schema.options)} options, found {len(values)} values.")
    return (), {option.name: value for option, value in zip(schema.options, values, strict=False)}


def _is_wrapped(schema: Schema, options: Mapping[str, Any]) -> bool:
    """Whether a mapping such as `{Dense: 10}` is the component that the first option asks for."""
    first = next(iter(schema.options), None)
    asks = first is not None and is_component(first.annotation, CONTRACTS)
    return asks and bool(options) and not any(option.name in options for option in schema.options)


def _takes_sequence(option: Option) -> bool:
    origin = typing.get_origin(option.annotation)
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _call(
    factory: Callable[..., Any], positional: tuple[Any, ...], bound: Mapping[str, Any], key: str, label: str
) -> Any:
    try:
        return factory(*positional, **bound)
    except FrameworkError as error:
        if not re.match(re.escape(key) + r"[.:\[]", str(error)):
            error.args = (f"{key}: {error}",)
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{key}: {label} cannot be built: {type(error).__name__}: {error}") from error


def _adapt(kind: str, built: Any, name: str, label: str) -> Any:
    """Lift what a factory returned to its contract.

    Raises: PluginError if it is something else.
    """
    try:
        if kind in ("layers", "models"):
            return as_model(built, name)
        if kind == "optimizers":
            return as_optimizer(built)
        if kind == "metrics":
            return as_metric(built)
    except TypeError as error:
        raise PluginError(f"{label} breaks its contract: {error}.") from error
    missing = [attribute for attribute in METHODS.get(kind, ()) if not hasattr(built, attribute)]
    if missing:
        raise PluginError(f"{label} breaks its contract: {type(built).__name__} lacks {', '.join(missing)}.")
    if kind == "callbacks" and not isinstance(built, Callback):
        raise PluginError(
            f"{label} breaks its contract: expected a framework.api.Callback, found {type(built).__name__}."
        )
    if kind == "stores" and (called := getattr(built, "name", None)) != name:
        raise PluginError(f"{label} breaks its contract: it calls itself '{called}'.")
    if kind in ("losses", "schedules", "transforms") and not callable(built):
        raise PluginError(f"{label} breaks its contract: expected a function, found {type(built).__name__}.")
    return built


def _check_calls(kind: str, built: Any, label: str) -> None:
    """See that what was made can be called as the core will call it.

    Raises: PluginError naming the function and what is wrong with its parameters.
    """
    for name, (positional, named) in CALLS.get(kind, {}).items():
        function = getattr(built, name) if name else built
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # of C, or of a library that hides it
            continue
        try:
            signature.bind(*range(positional), **dict.fromkeys(named))
        except TypeError as error:
            raise PluginError(f"{label} breaks its contract: {name or kind}{signature}: {error}.") from error
