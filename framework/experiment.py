"""Experiments: from a config to the objects of a run and the shapes of its state, before anything is compiled."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import (
    Array,
    Batch,
    Callback,
    DataPipeline,
    Members,
    Parameter,
    Problem,
    PyTree,
    Schedule,
    Strategy,
    Task,
    TrainState,
    as_pipeline,
    as_strategy,
    step_key,
    stream,
)
from framework.config.compose import Config
from framework.config.presets import check_profile, eval_period, total_steps
from framework.config.resolve import Settings, as_written, changed, resolved, tagged
from framework.data.batches import CheckedBatches, check_examples, check_pipeline
from framework.data.excerpts import FewBatches, FirstBatch
from framework.data.exclusion import excluding
from framework.distributed import coordination, processes
from framework.ensembles.evolution import COPIES, Compared, compared
from framework.ensembles.members import check_traceable, members_of, recordable, template, values_of, with_values
from framework.ensembles.task import Make, OwnOrders, population
from framework.errors import ConfigError, FrameworkError
from framework.keys import flat
from framework.numerics import numeric_settings
from framework.registry.blame import NamedStrategy
from framework.registry.builder import Builder, building
from framework.registry.entry_points import OURS, Plugin, Registry, discover
from framework.registry.sections import taken_by
from framework.registry.signatures import check
from framework.tags import COMPILE_SECONDS, COMPILED, EPOCH, EXAMPLES, PARTS, SHARE
from framework.tasks.assembly import task_of
from framework.tasks.ema import averaged
from framework.tasks.nonfinite import guarded
from framework.tasks.problem import problem_of
from framework.tasks.starting import Origin, Start, check_frozen, counts, origins
from framework.tasks.tracing import SEED, check_shapes, named, traced_once
from framework.trees import leaves_by_path

Look = Callable[[Task, TrainState, DataPipeline], None]
"""Looks at a task, the shapes of its state, and its data."""


class NamedCallback(NamedTuple):
    """A callback with the label that messages name it by."""

    label: str  # such as "callback 'tensorboard' (framework 0.1.0)"
    callback: Callback
    key: str = ""  # of the config that names it


class NamedProbe(NamedTuple):
    """A probe of an experiment's problem with its period, and with what messages name it by."""

    tag: str
    label: str  # such as "probe 'norms' (framework 0.1.0)"
    measure: Callable[[TrainState, Batch], Mapping[str, Array]]  # compiled
    every: int  # steps


class Experiment(NamedTuple):
    """Everything a run needs, built and checked."""

    config: dict[str, Any]  # resolved
    source: dict[str, Any]  # the same as it was written, with interpolations
    settings: Settings
    task: Task
    problem: Problem  # functions of the task of one run, for probes
    init: Callable[[Any], TrainState]  # the state of a seed, uint32 []
    data: DataPipeline
    data_seconds: float  # spent on the data alone
    batches: DataPipeline  # fed to the steps: the data, the share of this process, or those of all members side by side
    strategy: Strategy
    members: Members | None
    callbacks: tuple[NamedCallback, ...]
    probes: tuple[NamedProbe, ...]
    total_steps: int
    eval_every: int  # updates between two evaluations; 0 for the end alone
    shapes: TrainState  # of jax.ShapeDtypeStruct
    parameters: tuple[Parameter, ...]
    directions: Mapping[str, bool | None]  # by tag, whether high values are good
    plugins: Mapping[str, Plugin]  # by config key
    schedules: tuple[tuple[Schedule, str], ...]  # of the learning rate, of all members, each with its title
    start: Mapping[str, Any] | None = None  # facts of what the models begin with, and how many arrays are which
    is_known: bool = False  # a run of the same sweep and process had such a model
    is_reported: bool = False  # its sweep says in one line how it ended, so that the console needs no summary

    def config_for(self, steps: int) -> dict[str, Any]:
        """Return the resolved config of a run of so many steps that is alike otherwise."""
        source = changed(self.source, {"train.steps": steps})
        return resolved(source) if self.members is None else recordable(source, values_of(self.members, 0))

    @property
    def batch_size(self) -> int:
        """Number of examples in a step, of all members together."""
        return _leading(self.data) * (1 if self.members is None else self.members.size)

    @property
    def inputs(self) -> PyTree:
        """Shapes of what the trained model takes, with the batch as first axis."""
        return self.data.spec["inputs"] if self.task.inputs is None else self.task.inputs(self.data.spec)

    @property
    def places(self) -> TrainState:
        """The shapes with the strategy's shardings: a saved state is read into them."""
        return self.strategy.placement(self.shapes)

    @property
    def devices(self) -> int:
        """Number of devices that work: on parts of a batch, of the parameters, or of the members."""
        shardings = [leaf.sharding for leaf in jax.tree.leaves(self.places) if leaf.sharding is not None]
        return max(self.strategy.devices, *(len(sharding.device_set) for sharding in shardings), 1)


def build(config: Config, registry: Registry, start: Start | None = None, look: Look | None = None) -> Experiment:
    """Build an experiment.

    The data come first: they decide how many steps an epoch has, and so what `train.steps` and schedules resolve to.

    Args:
      start: arrays that its models begin with; None initialises them.
      look: is given the task of one member, the shapes of its state and its data, before that of all members is made;
        an error of it ends the build.

    Raises: ConfigError, PluginError or DataError in one line, before anything is compiled.
    """
    settings, builder = config.settings, Builder(registry)
    data, data_seconds = clocked(lambda: _build_data(builder, config.values, settings))
    total = total_steps(settings.train, settings.debug, data.steps_per_epoch)
    check_profile(settings.debug, total)
    written = as_written(_recordable(config.source), _recordable(config.values))
    eval_every = eval_period(settings.train, total, data.steps_per_epoch)
    config = config.with_values({"train.steps": total, "train.eval_every": eval_every})
    source, values = _recordable(config.source), _recordable(config.values)
    strategy = _build_strategy(builder, data, values)
    members = members_of(strategy, settings.seed, taken_by(values))
    task = _build_task(builder, _of_first(source, values, members), settings, start)
    _check_batches(strategy, data, values["data"], settings.train.accumulate)
    check = task.check
    task, init = traced_once(task, data)
    shapes = check_shapes(task, init, data, builder.used)
    batches = data if processes.count() == 1 or strategy.share is None else data.restricted(strategy.share)
    begins = None if start is None else origins(start, shapes)
    parameters = _parameters(shapes, begins, check_frozen(settings.freeze, shapes.params))
    directions, problem = _directions(task, shapes, data, settings.train.log_last_step), problem_of(task)
    probes = tuple(_probe(builder, tag, options, problem, eval_every) for tag, options in _tags(values, "probes"))
    directions |= dict.fromkeys(tag for each in probes for tag in _probed(each, shapes, data))
    if members is not None:
        if look is not None:
            look(task, shapes, data)
        make = _maker(source, settings, builder, members, start)
        by = members.evolution and compared(members.evolution, directions, data.eval(data.splits[0]))
        directions |= {} if by is None else {f"train/{COPIES}": None}
        task, init, shapes, batches = _of_all(make, members, data, task, shapes, by)
    callbacks = tuple(_callback(builder, tag, options) for tag, options in _tags(values, "callbacks"))
    waited = clocked(lambda: builder.finish(data, "data"))[1]
    checked = check_examples(data, check)
    held = _leading(data) if strategy.share is None else len(strategy.share.rows(_leading(data)))
    batches = CheckedBatches(batches, data, builder.used["data"].title, held, check, checked)
    return Experiment(
        config=values if members is None else recordable(source, values_of(members, 0)),
        source=written,
        settings=settings,
        task=task,
        problem=problem,
        init=init,
        data=data,
        data_seconds=data_seconds + waited,
        batches=batches,
        strategy=strategy,
        members=members,
        callbacks=callbacks,
        probes=probes,
        total_steps=total,
        eval_every=eval_every,
        shapes=shapes,
        parameters=parameters,
        directions=directions,
        plugins=dict(sorted(builder.used.items())),
        schedules=tuple(builder.schedules),
        start=None if start is None or begins is None else {**start.facts, **counts(begins, start)},
    )


def data_of(config: Config) -> DataPipeline:
    """Build the data of a config alone.

    Raises: FrameworkError.
    """
    return _build_data(Builder(discover()), config.values, config.settings)


def _build_data(builder: Builder, config: Mapping[str, Any], settings: Settings) -> DataPipeline:
    """Build the pipeline, without the entries of `data.transform`, which run in the step, and what is left out."""
    options = {name: value for name, value in config["data"].items() if name not in ("transform", "exclude")}
    built, plugin = builder.named("data", options, "data"), builder.used["data"]
    with building(plugin, "data"):
        check_pipeline(data := as_pipeline(built), plugin.title)
    data, debug = excluding(data, config["data"].get("exclude")), settings.debug
    if debug.overfit is not None:
        return FirstBatch(data, settings.seed)
    count = 1 if debug.fast else debug.limit
    return data if count is None else FewBatches(data, count)


def clocked(make: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the seconds that it took."""
    began = time.perf_counter()
    return make(), time.perf_counter() - began


def _build_task(builder: Builder, config: Mapping[str, Any], settings: Settings, start: Start | None = None) -> Task:
    """Build the task from a plain config, in which numbers may be traced, with the answers to what is not finite."""
    task = task_of(builder, config, settings.train, start)
    task = guarded(task) if settings.nan_policy in ("skip", "rollback") else task
    return task if settings.ema is None else averaged(task, settings.ema)


def _maker(
    source: Mapping[str, Any], settings: Settings, builder: Builder, members: Members, start: Start | None
) -> Make:
    """Make a function from a member's values, which may be traced, to its task."""
    if settings.nan_policy in ("skip", "rollback"):
        text = f"{settings.nan_policy} is not for members, which are frozen one by one; take stop."
        raise ConfigError(text, key="nan_policy")
    registry = builder.registry
    for member in range(1, members.size if len(members.values) > 1 else 0):
        # Factories check ranges here, since they cannot check traced numbers.
        _build_task(each := Builder(registry), with_values(source, values_of(members, member)), settings)
        builder.schedules += each.schedules
    bounds = {} if members.evolution is None else members.evolution.bounds
    for end in (0, 1) if bounds else ():
        _build_task(Builder(registry), with_values(source, {key: ends[end] for key, ends in bounds.items()}), settings)
    with_traced = template(source, values_of(members, 0))
    return lambda values: _build_task(Builder(registry), with_traced(values), settings, start)


def _of_all(
    make: Make, members: Members, data: DataPipeline, task: Task, shapes: TrainState, by: Compared | None
) -> tuple[Task, Callable[[Any], TrainState], TrainState, DataPipeline]:
    """Make the task, the state's init and shapes, and the batches of all members from those of one."""
    means = jax.eval_shape(task.train_step, shapes, data.spec)[1]
    results = dict.fromkeys(means, operator.truediv) | dict(task.results)
    check_traceable(make, values_of(members, 0), data.spec)
    together = population(make, members, results, by)._replace(
        predict=task.predict, inputs=task.inputs, exhibits=task.exhibits, models=task.models
    )
    task, init = traced_once(together, data)
    batches = OwnOrders(data, members.values["seed"]) if members.order == "own" else data
    return task, init, jax.eval_shape(init, SEED), batches


def _callback(builder: Builder, tag: str, options: Mapping[str, Any]) -> NamedCallback:
    callback = builder.named("callbacks", options, f"callbacks.{tag}")
    return NamedCallback(f"callback '{tag}' ({builder.used[f'callbacks.{tag}'].owner})", callback, f"callbacks.{tag}")


def _probe(builder: Builder, tag: str, options: Mapping[str, Any], problem: Problem, eval_every: int) -> NamedProbe:
    """Build a probe of a problem from its options; `every` is the core's own, by default the period of evaluations."""
    key, given = f"probes.{tag}", dict(options)
    every = check(given.pop("every", eval_every), int, f"{key}.every", {})
    if every < 1:
        raise ConfigError(
            f"expected a number of steps, at least 1, found {every}; set {key}.every=…", key=f"{key}.every"
        )
    probe = named(builder.named("probes", given, key), builder.used[key].title)

    @jax.jit
    def measure(state: TrainState, batch: Batch) -> dict[str, Array]:
        return dict(probe(problem, state, batch, stream(step_key(state.key, state.step), f"probe/{tag}")))

    return NamedProbe(tag, f"probe '{tag}' ({builder.used[key].owner})", measure, every)


def _probed(each: NamedProbe, shapes: TrainState, data: DataPipeline) -> list[str]:
    """Trace a probe, and return the tags of its scalars.

    Raises: ConfigError or PluginError naming the probe, if it cannot be traced.
    """
    with _keyed(f"probes.{each.tag}"):
        found = jax.eval_shape(each.measure, shapes, dict(data.spec))
    return [f"probe/{each.tag}/{name}" for name, value in found.items() if not value.shape]


@contextmanager
def _keyed(key: str) -> Iterator[None]:
    """Give an error of the framework the key of the component that raised it, if it has none."""
    try:
        yield
    except FrameworkError as error:
        error.key = error.key or key
        raise


def _tags(config: Mapping[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    return list(tagged(config.get(section), section).items())


def _recordable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the section `distributed`, which differs between processes."""
    return {key: value for key, value in config.items() if key != "distributed"}


def _build_strategy(builder: Builder, data: DataPipeline, config: Mapping[str, Any]) -> Strategy:
    """Build the strategy. With several processes it must support them, and all must have one config."""
    strategy = as_strategy(builder.named("strategies", config["strategy"], "strategy"))
    if (plugin := builder.used["strategy"]).distribution != OURS:
        strategy = NamedStrategy(strategy, plugin.title)
    if processes.count() == 1:
        return strategy
    if strategy.share is None:
        text = f"'{config['strategy']['name']}' runs in one process, and there are {processes.count()}; "
        raise ConfigError(f"{text}take strategy=sharded, or pmap.", key="strategy")
    facts = {key: value for key, value in flat(config).items() if not key.startswith(("run.", "data.root"))}
    versions = {"data": data.source, "JAX": jax.__version__, "devices": jax.local_device_count()}
    coordination.check_alike({**facts, **versions, **numeric_settings()})
    return strategy


def _of_first(source: Mapping[str, Any], values: dict[str, Any], members: Members | None) -> dict[str, Any]:
    return values if members is None else with_values(source, values_of(members, 0))


def _check_batches(strategy: Strategy, data: DataPipeline, options: Mapping[str, Any], accumulate: int) -> None:
    sizes = {"data.batch_size": _leading(data), "data.eval_batch_size": options.get("eval_batch_size")}
    for key, size in sizes.items():
        if isinstance(size, int) and size % strategy.devices:
            text = f"{size} does not divide over {strategy.devices} devices; take a multiple of that."
            raise ConfigError(text, key=key)
    each = _leading(data) // strategy.devices
    if each % accumulate:
        fits = ", ".join(str(parts) for parts in range(1, each + 1) if each % parts == 0)
        text = f"{accumulate} does not divide the {each} examples a device has of a batch; take one of {fits}, or "
        raise ConfigError(f"{text}another data.batch_size.", key="train.accumulate")


def _directions(task: Task, shapes: TrainState, data: DataPipeline, by_step: bool) -> dict[str, bool | None]:
    """Return all tags that a task's metrics give, each with whether high values are good."""
    batch = {"weights": jax.ShapeDtypeStruct((_leading(data),), np.float32), **data.spec}
    measured = jax.eval_shape(task.eval_step, shapes, batch)
    names = {"train": jax.eval_shape(task.train_step, shapes, data.spec)[1], "eval": measured}
    names |= {"train_step": names["train"]} if by_step else {}
    names |= {"test": measured} if "test" in data.splits[1:] else {}
    tags = {f"{split}/{name}": task.directions.get(name) for split in names for name in names[split]}
    compiles = {COMPILED: False, COMPILE_SECONDS: False}
    reached = dict.fromkeys((EPOCH, EXAMPLES, *(f"{SHARE}{part}" for part in PARTS)))
    return {**tags, "perf/examples_per_second": True, **compiles, **reached}


def _parameters(
    shapes: TrainState, begins: Mapping[str, Origin] | None, is_frozen: Collection[str]
) -> tuple[Parameter, ...]:
    def origin(path: str) -> str:
        words = [*([str(begins[path])] if begins else []), *(["frozen"] if path in is_frozen else [])]
        return ", ".join(words)

    return tuple(
        Parameter(path, leaf.shape, str(leaf.dtype), int(np.prod(leaf.shape)), origin(path))
        for path, leaf in leaves_by_path(shapes.params).items()
    )


def _leading(data: DataPipeline) -> int:
    return int(jax.tree.leaves(data.spec)[0].shape[0])
