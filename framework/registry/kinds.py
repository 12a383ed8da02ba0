"""The kinds of plugins: one row for each, which all else is derived from."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of plugin: its entry-point group, its place in a config, and the contract of its components.

    Contracts are named as entry points are, so that a listing of plugins imports neither JAX nor optax.

    Attributes:
      name: in the plural; the entry-point groups are "framework.models" and, of catalogues,
        "framework.models.catalogue".
      noun: of one component, for messages.
      section: of a config, that names one component, or holds several by tag.
      tagged: the section holds several; a tag is the plugin's name unless the option `name` gives another.
      annotation: of a factory's parameter for which a config names a component, and the core builds it.
      lift: `lift(built, name) -> component`, from the result of a factory to the contract.
      base: the class that components inherit from.
      attributes: of components, beside functions; `name` must be the registered one.
      calls: the functions of a component with the arguments that the core gives: "key=" by name, "key?" by name if the
        function has it. After "->" stands the form of the result, if the registry checks it.
    """

    name: str
    noun: str
    section: str = ""
    tagged: bool = False
    annotation: str = ""
    lift: Callable[[Any, str], Any] | None = None
    base: str = ""
    attributes: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


def calls_of(kind: Kind) -> list[tuple[str, list[str], str]]:
    """Read each "apply(params, key=) -> form" as name, arguments, with their "=" and "?", and form or ""."""

    def read(call: str) -> tuple[str, list[str], str]:
        signature, _, form = call.partition(" -> ")
        name, _, arguments = signature.rstrip(")").partition("(")
        return name, arguments.split(", "), form

    return list(map(read, kind.calls))


PREFIX = "framework."
"""The beginning of all entry-point groups of the framework."""


def _as_model(built: Any, name: str) -> Any:
    return resolve_name("framework.api:as_model")(built, name)


def _as_metric(built: Any, _: str) -> Any:
    return resolve_name("framework.api:as_metric")(built)


def _as_optimizer(built: Any, _: str) -> Any:
    return resolve_name("framework.api:as_optimizer")(built)


def _as_environment(built: Any, _: str) -> Any:
    return resolve_name("framework.contracts.environment:as_environment")(built)


_MODEL = ("init(key, shape) -> (out_shape, params, state)",)
_MODEL += ("apply(params, state, inputs, key=, train=) -> (outputs, state)",)
_METRIC = ("values(outputs, batch) -> [B, ...]", "result(total, count) -> numbers")
_OPTAX = "optax:GradientTransformation"
_OPTIMIZER = ("init(params) -> state", "update(updates, state, params) -> (updates, state)")
_PIPELINE = ("spec", "steps_per_epoch", "splits", "source")
_STRATEGY = ("init(init, given)", "train(step, axes)", "evaluate(step)", "feed(feed, axes)")
_TASK = ("init(key, spec) -> TrainState", "train_step(state, batch, axis=) -> (TrainState, means)")
_TASK += ("eval_step(state, batch, axis=) -> means",)
_PLAYED = ("reset(key) -> (state, observation)",)
_PLAYED += ("step(key, state, action) -> (state, observation, reward, terminated)",)
_WORLD = "framework.api:Environment"
_BASE = "framework.api:Callback"
_CALLBACK = ("on_built(directions)", "on_start(run)", "on_log(step, scalars)", "on_state(step, state)")
_CALLBACK += ("on_media(step, tag, medium)", "settle(wait)", "on_end(summary)")
_LAUNCHER = "framework.contracts.launcher:Launcher"
_SEARCH = ("begin(space, goals, seed)", "tell(trial, report)", "decide(trial, report)")
_STORE = ("write(path, arrays) -> file", "read(path, shapes)")

_ROWS = (
    Kind("layers", "layer", annotation="framework.api:Model", lift=_as_model, calls=_MODEL),
    Kind("models", "model", "model", lift=_as_model, calls=_MODEL),
    Kind("losses", "loss", "loss", annotation="framework.api:Loss", calls=("(outputs, batch, key?) -> [B]",)),
    Kind("metrics", "metric", "metrics", True, annotation="framework.api:Metric", lift=_as_metric, calls=_METRIC),
    Kind("optimizers", "optimizer", "optimizer", annotation=_OPTAX, lift=_as_optimizer, calls=_OPTIMIZER),
    Kind("schedules", "schedule", "schedule", annotation="framework.api:Schedule", calls=("(step) -> number",)),
    Kind("data", "data pipeline", "data", attributes=_PIPELINE, calls=("train(seed, start)", "eval(split)")),
    Kind("tasks", "task", "task", base="framework.api:Task", calls=_TASK),
    Kind("preprocessors", "preprocessor", calls=("(raw)",)),
    Kind("exporters", "exporter", calls=("(model, folder) -> facts",)),
    Kind("transforms", "transform", annotation="framework.api:Transform", calls=("(keys, batch) -> batch",)),
    Kind("environments", "environment", "environment", annotation=_WORLD, lift=_as_environment, calls=_PLAYED),
    Kind("strategies", "strategy", "strategy", attributes=("devices",), calls=_STRATEGY),
    Kind("callbacks", "callback", "callbacks", True, base=_BASE, attributes=("every",), calls=_CALLBACK),
    Kind("probes", "probe", "probes", True, calls=("(problem, state, batch, key) -> arrays",)),
    Kind("stores", "store", annotation="framework.api:Store", attributes=("name", "place"), calls=_STORE),
    Kind("launchers", "launcher", "launcher", base=_LAUNCHER, attributes=("slots",), calls=("launch(jobs, here)",)),
    Kind("searches", "search", "search", base="framework.contracts.search:Search", calls=_SEARCH),
    Kind("commands", "command", base="framework.command:Command", attributes=("name",), calls=("run(words)",)),
)

KINDS = {kind.name: kind for kind in _ROWS}

COMPONENTS = {kind.section: kind.name for kind in _ROWS if kind.section and not kind.tagged}
"""Kinds by the sections that name one component each."""

MAPPINGS = {kind.section: kind.name for kind in _ROWS if kind.tagged}
"""Kinds by the sections that hold components by tag."""

GROUPS = COMPONENTS | MAPPINGS

OF_SWEEPS = ("launcher", "search", "sweep")
"""Sections of a sweep, which no run has."""

_OTHERS = ("layers", "schedules", "stores")  # a task has models rather than layers, and its options take schedules

OF_TASKS = {kind.name: kind.annotation for kind in _ROWS if kind.annotation and kind.name not in _OTHERS} | {
    "models": "framework.api:Model"
}
"""Annotations of a task's parameters for which a section of the config names the component, by kind."""
