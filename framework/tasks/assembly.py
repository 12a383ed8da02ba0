"""A task from a config: each section that its factory takes is built, wrapped and named, and handed to the factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import Batch, Loss, Metric, Model, PyTree, TargetedLoss, Task, Transform, WeightedLoss
from framework.config.resolve import tagged
from framework.config.settings import Train
from framework.errors import ConfigError
from framework.registry.builder import Builder
from framework.registry.sections import DEFAULT, Section, names_of, sections_of
from framework.registry.signatures import schema_of
from framework.steps.metrics import check_tag
from framework.steps.precision import in_precision, loss_scaled
from framework.tasks.starting import Start, begun, frozen
from framework.tasks.tracing import named, named_model, named_update, named_values

ORDER = ("models", "environments", "losses", "metrics", "transforms", "optimizers")
"""Kinds in the order in which they are built: metrics take defaults from the loss."""

NEEDED = ("models", "environments")
"""Kinds that a trained model needs; of the others anything can stand in."""


def task_of(builder: Builder, config: Mapping[str, Any], train: Train, start: Start | None = None) -> Task:
    """Build the task of a resolved config, in which numbers may be traced.

    Args:
      start: arrays that its models begin with; None initialises them.

    Raises: ConfigError or PluginError in one line.
    """
    factory = _factory(builder, config)
    sections = sections_of(factory)
    parts = {name: _part(builder, config, name, section) for name, section in _ordered(sections)}
    built = {name: part for name, part in parts.items() if part is not None}
    if start is not None:
        models = [name for name in built if sections[name].kind == "models"]
        for name in models:
            built[name] = begun(built[name], "" if len(models) == 1 else f"{name}/", start)
    if any(option.name == "accumulate" for option in schema_of(factory).options):
        built["accumulate"] = train.accumulate
    elif train.accumulate != 1:
        text = f"task '{_name(config)}' does not cut batches into parts, found {train.accumulate}; take 1."
        raise ConfigError(text, key="train.accumulate")
    task = _made(builder, config, sections, built)
    if config.get("precision") == "float16" and not task.is_scaled:
        text = f"task '{_name(config)}' does not scale its losses, which float16 needs; take bfloat16."
        raise ConfigError(text, key="precision")
    return task


def trained_task_of(builder: Builder, config: Mapping[str, Any]) -> Task:
    """Build the task of a recorded config as far as its trained model needs it: without losses and optimizers."""
    sections = sections_of(_factory(builder, config))
    stand_ins: dict[str, Any] = {"losses": _no_loss, "metrics": {}, "transforms": (), "optimizers": optax.identity()}
    needed = {name: section for name, section in _ordered(sections) if section.kind in NEEDED}
    built = {name: _part(builder, config, name, section) for name, section in needed.items()}
    others = {name: stand_ins[each.kind] for name, each in sections.items() if name not in needed and each.is_required}
    return _made(builder, config, sections, {name: part for name, part in built.items() if part is not None} | others)


def models_of(parts: PyTree, models: Mapping[str, Model]) -> Mapping[str, PyTree]:
    """Return the parameters, or the states, of a task's models by name: those of a single model are not below one."""
    return dict.fromkeys(models, parts) if len(models) == 1 else parts


def _factory(builder: Builder, config: Mapping[str, Any]) -> Callable[..., Any]:
    return builder.registry.find("tasks", _name(config), "task.name").load("task.name")


def _name(config: Mapping[str, Any]) -> str:
    return str(config.get("task", {}).get("name", DEFAULT))


def _ordered(sections: Mapping[str, Section]) -> list[tuple[str, Section]]:
    return sorted(sections.items(), key=lambda item: ORDER.index(item[1].kind))


def _made(builder: Builder, config: Mapping[str, Any], sections: Mapping[str, Section], built: dict[str, Any]) -> Task:
    """Call the factory with its components and with the options of the section `task`."""
    options = {"name": DEFAULT, **config.get("task", {})}
    if both := sorted(options.keys() & sections.keys()):
        name = names_of({both[0]: sections[both[0]]})[0]
        raise ConfigError(f"it is a section of its own; set {name}=… instead.", key=f"task.{both[0]}")
    task: Task = builder.named("tasks", {**options, **built}, "task")
    return task._replace(
        models={name: built[name] for name, each in sections.items() if each.kind == "models" and name in built}
    )


def _part(builder: Builder, config: Mapping[str, Any], name: str, section: Section) -> Any:
    """Build one component or several; None for a section that is not there and need not be."""
    if section.kind == "transforms":
        return _transforms(builder, config)
    if section.is_tagged:
        named = tagged(config.get(name), name).items()
        return {tag: _one(builder, config, section.kind, options, f"{name}.{tag}") for tag, options in named}
    if config.get(name) is None and not section.is_required:
        return None
    return _one(builder, config, section.kind, config.get(name) or {}, name)


def _one(builder: Builder, config: Mapping[str, Any], kind: str, options: Mapping[str, Any], key: str) -> Any:
    match kind:
        case "models":
            model = in_precision(builder.named(kind, options, key), config.get("precision", "float32"))
            return named_model(model, builder.used[key].title, key)
        case "losses":
            return _loss(builder, options, key)
        case "metrics":
            return _metric(builder, options, key)
        case "optimizers":
            return _optimizer(builder, config, options, key)
    return builder.named(kind, options, key)


def _loss(builder: Builder, options: Mapping[str, Any], key: str) -> Loss:
    loss = builder.named("losses", options, key)
    title = builder.used[key].title
    if not isinstance(loss, TargetedLoss | WeightedLoss):
        return named_values(loss, title, key)
    loss = replace(loss, values=named_values(loss.values, title, key))
    builder.loss = loss if key == "loss" else builder.loss
    return loss


def _metric(builder: Builder, options: Mapping[str, Any], key: str) -> Metric:
    check_tag(key.partition(".")[2])
    metric = builder.named("metrics", options, key)
    return metric._replace(values=named_values(metric.values, builder.used[key].title, key))


def _transforms(builder: Builder, config: Mapping[str, Any]) -> list[Transform]:
    entries = config["data"].get("transform") or []
    if not isinstance(entries, list):
        raise ConfigError(f"expected a list, found {entries!r}.", key="data.transform")
    keys = [f"data.transform[{index}]" for index in range(len(entries))]
    return [named(builder.entry("transforms", entry, key), key) for entry, key in zip(entries, keys, strict=True)]


def _optimizer(
    builder: Builder, config: Mapping[str, Any], options: Mapping[str, Any], key: str
) -> optax.GradientTransformation:
    """Build an optimizer; that of the section `optimizer` has the schedule in the place of its learning rate."""
    options, is_scheduled, title = dict(options), False, ""
    if key == "optimizer":
        schedule = config.get("schedule") or {"name": "constant"}
        is_scheduled = "learning_rate" in options or schedule != {"name": "constant"}
        builder.rate = builder.named("schedules", schedule, "schedule") if is_scheduled else None
        if builder.rate is not None:
            builder.schedules.append((builder.rate, builder.used["schedule"].title))
    if "learning_rate" in options and is_scheduled:
        options["learning_rate"] = builder.rate
    optimizer = builder.named("optimizers", options, key)
    title = builder.used[key].title
    if patterns := config.get("freeze"):
        optimizer = frozen(optimizer, patterns)
    optimizer = optimizer._replace(init=named(optimizer.init, title), update=named_update(optimizer.update, title, key))
    if is_scheduled and not builder.rate_taken:
        name = options.get("name")
        raise ConfigError(f"optimizer '{name}' takes no learning rate; leave the schedule out.", key="schedule")
    builder.rate = None  # which is not that of another optimizer
    return loss_scaled(optimizer) if config.get("precision") == "float16" else optimizer


def _no_loss(outputs: PyTree, batch: Batch) -> jax.Array:
    return jnp.zeros(jax.tree.leaves(outputs)[0].shape[0])
