"""From a config to the objects of an experiment, and to the shapes it will have, before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig, OmegaConf

from framework.api import DataPipeline, Model, Parameter, Strategy, Task, TrainState, layer_name
from framework.averaging import averaged
from framework.build import Builder
from framework.config import Settings, extended, plain, settings_of, tagged
from framework.errors import ConfigError, FrameworkError
from framework.keys import root_key
from framework.loop import Watcher
from framework.precision import in_precision, loss_scaled
from framework.registry import Plugin, Registry
from framework.steps import supervised
from framework.store import leaves_by_path


class Experiment(NamedTuple):
    """Everything a run needs, built and checked."""

    config: dict[str, Any]  # resolved
    settings: Settings
    model: Model
    task: Task
    data: DataPipeline
    strategy: Strategy
    watchers: tuple[Watcher, ...]
    total_steps: int
    shapes: TrainState  # of jax.ShapeDtypeStruct
    plugins: Mapping[str, Plugin]  # by config key

    @property
    def batch_size(self) -> int:
        """Examples in a training batch."""
        return int(jax.tree.leaves(self.data.spec)[0].shape[0])

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameter table."""
        return tuple(
            Parameter(path, leaf.shape, str(leaf.dtype), int(np.prod(leaf.shape)))
            for path, leaf in leaves_by_path(self.shapes.params).items()
        )


def build(config: DictConfig, registry: Registry) -> Experiment:
    """Build an experiment.

    The data come first: they decide how many steps an epoch has, and so what `train.steps` and schedules resolve to.

    Raises: ConfigError, PluginError or DataError in one line, before anything is compiled.
    """
    config = extended(config)
    settings = settings_of(plain(config))
    builder = Builder(registry)
    data, transforms = _build_data(builder, plain(config)["data"])
    total = settings.train.steps or settings.train.epochs * data.steps_per_epoch
    OmegaConf.update(config, "train.steps", total, force_add=True)
    resolved = plain(config)
    model = in_precision(builder.named("models", resolved["model"], "model"), settings.precision)
    loss = builder.named("losses", resolved["loss"], "loss")
    metrics = {tag: builder.named("metrics", options, f"metrics.{tag}") for tag, options in _tags(resolved, "metrics")}
    optimizer = _build_optimizer(builder, resolved)
    task = supervised(model, loss, optimizer, metrics, transforms, settings.train.accumulate)
    task = task if settings.ema is None else averaged(task, settings.ema)
    strategy = builder.named("strategies", resolved["strategy"], "strategy")
    _check_batches(strategy, data, resolved["data"], settings.train.accumulate)
    watchers = tuple(_watcher(builder, tag, options) for tag, options in _tags(resolved, "callbacks"))
    shapes = check_shapes(task, data, model)
    return Experiment(
        resolved, settings, model, task, data, strategy, watchers, total, shapes, dict(sorted(builder.used.items()))
    )


def check_shapes(task: Task, data: DataPipeline, model: Model) -> TrainState:
    """Trace init and both steps on the data's shapes, which takes milliseconds and compiles nothing.

    Raises: ConfigError that says which of them cannot be traced, and why.
    """
    key = jax.eval_shape(lambda: root_key(0))
    batch = {"weights": jax.ShapeDtypeStruct((_leading(data),), np.float32), **data.spec}
    about = f"model '{layer_name(model)}' on inputs {_shapes(data.spec['inputs'])}"
    state = _trace(f"init of {about}", lambda key: task.init(key, data.spec), key)
    after, _ = _trace(f"train step of {about}", task.train_step, state, data.spec)
    _trace(f"eval step of {about}", task.eval_step, state, batch)
    for path, leaf in leaves_by_path(state).items():
        changed = leaves_by_path(after).get(path)
        if changed is None or (changed.shape, changed.dtype) != (leaf.shape, leaf.dtype):
            raise ConfigError(
                f"the train step turns {path} from {_shapes(leaf)} into {_shapes(changed)}; it must keep it."
            )
    return state


def _build_data(builder: Builder, section: Mapping[str, Any]) -> tuple[DataPipeline, list[Any]]:
    """The pipeline, and the augmentations that `data.transform` lists; those run in the step, not in the pipeline."""
    entries = section.get("transform") or []
    options = {name: value for name, value in section.items() if name != "transform"}
    if not isinstance(entries, list):
        raise ConfigError(f"data.transform: expected a list, found {entries!r}.")
    data = builder.named("data", options, "data")
    return data, [builder.entry("transforms", entry, f"data.transform[{i}]") for i, entry in enumerate(entries)]


def _build_optimizer(builder: Builder, config: Mapping[str, Any]) -> Any:
    """The optimizer, with the schedule in the place of its learning rate."""
    options = dict(config["optimizer"])
    if "learning_rate" in options:
        builder.rate = options["learning_rate"] = builder.named("schedules", config["schedule"], "schedule")
    optimizer = builder.named("optimizers", options, "optimizer")
    return loss_scaled(optimizer) if config.get("precision") == "float16" else optimizer


def _watcher(builder: Builder, tag: str, options: Mapping[str, Any]) -> Watcher:
    callback = builder.named("callbacks", options, f"callbacks.{tag}")
    return Watcher(f"callback '{tag}' ({builder.used[f'callbacks.{tag}'].owner})", callback)


def _tags(config: Mapping[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    return list(tagged(config.get(section), section).items())


def _check_batches(strategy: Strategy, data: DataPipeline, options: Mapping[str, Any], accumulate: int) -> None:
    sizes = {"data.batch_size": _leading(data), "data.eval_batch_size": options.get("eval_batch_size")}
    for key, size in sizes.items():
        if isinstance(size, int) and size % strategy.devices:
            raise ConfigError(
                f"{key}: {size} does not divide over {strategy.devices} devices; take a multiple of that."
            )
    each = _leading(data) // strategy.devices
    if each % accumulate:
        fits = ", ".join(str(parts) for parts in range(1, each + 1) if each % parts == 0)
        raise ConfigError(
            f"train.accumulate: {accumulate} does not divide the {each} examples a device has of a batch; "
            f"take one of {fits}, or another data.batch_size."
        )


def _leading(data: DataPipeline) -> int:
    return int(jax.tree.leaves(data.spec)[0].shape[0])


def _trace(what: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except FrameworkError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} fails: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")
