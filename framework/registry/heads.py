"""Losses and metrics on one head of a model, or on one of several targets: the options `on_head` and `on_target`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from framework.api import Batch, Loss, Metric, PyTree, TargetedLoss, WeightedLoss
from framework.errors import ConfigError, nearest


class Place(NamedTuple):
    """The part of outputs and targets that a loss or metric takes.

    Attributes:
      on_head: name of the outputs; None for all outputs.
      on_target: name of the targets; None for all targets.
    """

    on_head: str | None = None
    on_target: str | None = None


EVERYTHING = Place()


def taken(options: Mapping[str, Any], key: str) -> tuple[Place, dict[str, Any]]:
    """Take the place out of the options of a loss or metric.

    Raises: ConfigError if a name is no text.
    """
    found = {name: options[name] for name in Place._fields if options.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, str):
            raise ConfigError(f"expected a name, found {value!r}.", key=f"{key}.{name}")
    return Place(**found), {name: value for name, value in options.items() if name not in Place._fields}


def placed(built: Any, place: Place) -> Any:
    """Return a loss, or a metric, that takes its outputs and targets from a place."""
    if place == EVERYTHING:
        return built
    if isinstance(built, Metric):
        return built._replace(values=_at(built.values, place))
    if isinstance(built, TargetedLoss):
        return replace(built, values=_at(built.values, place), **place._asdict())
    return _at(built, place)


def targeted(loss: Loss | None) -> Iterator[TargetedLoss]:
    """Yield the losses that say what their targets are: the loss itself, or the terms of a weighted one."""
    if isinstance(loss, WeightedLoss):
        for each in loss.losses.values():
            yield from targeted(each)
    elif isinstance(loss, TargetedLoss):
        yield loss


def targeted_at(loss: Loss | None, place: Place) -> TargetedLoss | None:
    """Return the loss, or the term of it, that takes the same place and says what its targets are, or None."""
    return next((each for each in targeted(loss) if Place(each.on_head, each.on_target) == place), None)


def part(tree: PyTree, name: str | None, what: str) -> PyTree:
    """Return the entry of a mapping, or the whole without a name.

    Raises: ConfigError if there is no such entry.
    """
    if name is None:
        return tree
    if tree is None:
        raise ConfigError(f"the data give no {what}: take other data, or a task that needs none.")
    if not isinstance(tree, Mapping):
        raise ConfigError(f"there are no several {what} to take '{name}' of; leave it out.")
    if name not in tree:
        raise ConfigError(f"there is no '{name}' among the {what}.{nearest(name, tree)}")
    return tree[name]


def _at(values: Callable[..., Any], place: Place) -> Callable[..., Any]:
    @functools.wraps(values)
    def call(outputs: PyTree, batch: Batch, **options: Any) -> Any:
        targets = part(batch.get("targets"), place.on_target, "targets")
        own = batch if place.on_target is None else {**batch, "targets": targets}
        return values(part(outputs, place.on_head, "outputs"), own, **options)

    return call
