"""One component from its name and options: looked up, checked against its signature, called, and checked again."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from framework.errors import ConfigError, FrameworkError, blaming
from framework.registry.blame import answerable
from framework.registry.contract import checked
from framework.registry.entry_points import Plugin, Registry
from framework.registry.heads import EVERYTHING, placed, taken, targeted_at
from framework.registry.kinds import KINDS
from framework.registry.signatures import Build, Schema, bind, freeze, is_component, schema_of

if TYPE_CHECKING:
    from framework.api import Loss, Schedule, TargetedLoss


FITTING = {"classes": "metrics=[accuracy]", "binary": "metrics=[accuracy, auc]", "real": "metrics=[mse]"}
"""Metrics that fit the targets of a loss, for messages."""


class Builder:
    """Builds components and notes which plugins were used, for the run record.

    Attributes:
      used: plugins by the config key that named them.
      rate: the schedule that optimizers get as `learning_rate` where their options leave it out.
      rate_taken: an optimizer took a learning rate.
      schedules: those of the section `schedule`, of all members, each with its title: looked at before the first step.
      loss: the loss. What it, or the term of it on a metric's head, says of its targets is the default of the metric's
        options `targets` and `ignore_index`, and metrics that apply to other targets are refused.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.used: dict[str, Plugin] = {}
        self.rate: Schedule | None = None
        self.rate_taken = False
        self.schedules: list[tuple[Schedule, str]] = []
        self.loss: Loss | None = None
        self._builds: dict[Any, Build] = {
            resolve_name(kind.annotation): functools.partial(self.entry, name)
            for name, kind in KINDS.items()
            if kind.annotation
        }

    def named(self, kind: str, config: Mapping[str, Any], key: str) -> Any:
        """Build from a config section: a mapping of `name` and options.

        Raises: ConfigError or PluginError, in one line that names the key and who registered the plugin.
        """
        name = config.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"expected the name of a {KINDS[kind].noun}, found {name!r}.", key=f"{key}.name")
        options = {option: value for option, value in config.items() if option != "name"}
        return self._build(self._find(kind, name, f"{key}.name"), options, key, kind)

    def entry(self, kind: str, value: Any, key: str) -> Any:
        """Build from an entry of a list: `Relu`, `{Dense: 10}`, `{Conv: [16, [5, 5]]}` or `{Conv: {out_chan: 16}}`."""
        if isinstance(value, str):
            return self._build(self._find(kind, value, key), {}, key, kind)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return self.named(kind, value, key)
        if isinstance(value, Mapping) and len(value) == 1:
            ((name, options),) = value.items()
            plugin = self._find(kind, str(name), key)
            return self._build(plugin, {} if options is None else options, f"{key}.{name}", kind)
        raise ConfigError(f"expected the name of a {KINDS[kind].noun} or {{name: options}}, found {value!r}.", key=key)

    def finish(self, built: Any, key: str) -> None:
        """Wait for the work that the factory of `key` left to a thread, where its component has a method `ready`.

        Raises: the error of that work, as the factory itself would have.
        """
        if (ready := getattr(built, "ready", None)) is not None:
            with building(self.used[key], key):
                ready()

    def _find(self, kind: str, name: str, key: str) -> Plugin:
        """Look a component up. A loss can stand as a metric, where no metric has its name."""
        if kind == "metrics" and not self.registry.has(kind, name) and self.registry.has("losses", name):
            kind = "losses"
        return self.registry.find(kind, name, key)

    def _build(self, plugin: Plugin, options: Any, key: str, wanted: str) -> Any:
        """Build a plugin as the kind that is wanted: its own, or a metric of a loss."""
        self.used[key] = plugin
        factory = plugin.load(key)
        schema, place = schema_of(factory), EVERYTHING
        if plugin.kind in ("losses", "metrics") and isinstance(options, Mapping):
            place, options = taken(options, key)
        positional, given = self._arguments(schema, options, key, plugin.title)
        rated = plugin.kind == "optimizers" and self.rate is not None
        if rated and any(option.name == "learning_rate" for option in schema.options):
            given.setdefault("learning_rate", self.rate)
            self.rate_taken = True
        given |= {o.name: _scheduled(given[o.name], o.annotation) for o in schema.options if o.name in given}
        chosen = dict(given)
        if wanted == "metrics" and (loss := targeted_at(self.loss, place)) is not None:
            said = {"targets": loss.targets, "ignore_index": loss.ignore_index}
            given = {option.name: said[option.name] for option in schema.options if option.name in said} | given
        bound = {} if positional else bind(schema, given, key, plugin.title, self._builds)
        with building(plugin, key, bound):
            built = factory(*positional, **bound)
        built = answerable(plugin, checked(plugin, built, key), key)
        if wanted == "metrics":
            built = _fitting(plugin, built, key, None if "targets" in chosen else targeted_at(self.loss, place))
        return placed(built, place)

    def _arguments(self, schema: Schema, options: Any, key: str, title: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read positional and named arguments from `{…}`, `[…]` or one value, which may be a component `{name: …}`."""
        first = next(iter(schema.options), None)
        if isinstance(options, Mapping):
            is_named = not options or any(option.name in options for option in schema.options)
            if is_named or first is None or not is_component(first.annotation, self._builds):
                return (), dict(options)
        values = options if isinstance(options, list | tuple) else [options]
        origin = first and typing.get_origin(first.annotation)
        if values is options and isinstance(origin, type) and issubclass(origin, Sequence):
            values = [options]
        if schema.variadic and first is None:
            return tuple(freeze(value) for value in values), {}
        if len(values) > len(schema.options):
            raise ConfigError(f"{title} takes {len(schema.options)} options, found {len(values)} values.", key=key)
        return (), {option.name: value for option, value in zip(schema.options, values, strict=False)}


def _fitting(plugin: Plugin, built: Any, key: str, loss: TargetedLoss | None) -> Any:
    """Return a metric, of a loss too, that applies to the targets of a loss, if there is one that says them."""
    lift = KINDS["metrics"].lift
    assert lift is not None
    metric = lift(built, plugin.name)
    metric = metric._replace(higher_is_better=False) if plugin.kind == "losses" else metric
    if loss is not None and metric.targets and loss.targets not in metric.targets:
        raise ConfigError(
            f"{plugin.title} applies to {' or '.join(metric.targets)} targets, and those of the loss are "
            f"{loss.targets}; take {FITTING[loss.targets]}, or another loss.",
            key=key,
        )
    return metric


def _scheduled(value: Any, annotation: Any) -> Any:
    """Return a constant schedule for a number, where an option takes schedules and no numbers."""
    schedule, inner = resolve_name(KINDS["schedules"].annotation), typing.get_args(annotation)
    if isinstance(value, list | tuple) and inner == (schedule,):
        return [_scheduled(item, schedule) for item in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    takes = annotation == schedule or (schedule in inner and float not in inner)
    return resolve_name("optax:constant_schedule")(value) if number and takes else value


@contextmanager
def building(plugin: Plugin, key: str, options: Mapping[str, Any] = {}) -> Iterator[None]:
    """Add the key to an error of a factory's own, and name the plugin in any other."""
    try:
        with blaming(f"{plugin.title} cannot be built", key):
            yield
    except FrameworkError as error:
        if error.key != key:
            # A factory knows its options, and not the key that holds them.
            first = str(error).partition(" ")[0].rstrip(":")
            error.option = first if first in options and not error.key else ""
            error.key = f"{key}.{error.key}" if error.key else key
        raise
