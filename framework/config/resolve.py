"""From a composed config to values: extensions, interpolations, and the types of the core's own sections."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from framework.config import policy
from framework.config.settings import Debug, Distributed, InitFrom, NanPolicy, Precision, RunSettings, Train
from framework.config.sizes import bytes_of
from framework.errors import ConfigError, FrameworkError, nearest, plain
from framework.keys import flat
from framework.registry.kinds import KINDS, MAPPINGS
from framework.registry.sections import CORE, is_of_tasks, names_of, taken_by
from framework.registry.signatures import bind, check, schema_of

T = TypeVar("T")

MAX_COUNT = 2**31 - 1
"""Updates that the 32-bit counters of optimizers and checkpoints hold."""


class Settings(NamedTuple):
    """The core's own part of a config."""

    seed: int
    train: Train
    run: RunSettings
    distributed: Distributed
    debug: Debug
    nan_policy: NanPolicy
    precision: Precision
    ema: float | None
    init_from: InitFrom | None
    freeze: tuple[str, ...]


def share_of_steps(share: float, *, _root_: DictConfig) -> int | None:
    """Resolve `${steps:0.1}`: that share of `train.steps`, rounded; null while unknown."""
    steps = OmegaConf.select(_root_, "train.steps")
    return None if steps is None else round(float(share) * steps)


OmegaConf.register_new_resolver("steps", share_of_steps, replace=True)


def extended(config: DictConfig) -> dict[str, Any]:
    """Apply the section `extend`: append its lists to the lists, and add its names to the mappings, of the same key.

    `extend.model.layers: [Relu]` appends a layer; `extend.metrics: [perplexity, {top_k_accuracy: {k: 3}}]` adds two.

    Returns: the source of a config: plain dicts and lists, in which interpolations are kept.

    Raises: ConfigError if there is nothing to extend under a key, or it is neither a list nor a mapping.
    """
    config = copy.copy(config)
    with open_dict(config):
        if _lacks_rate(config):
            config.schedule = {"name": "constant"}  # of a learning rate that is not there: never built
        additions = _unresolved(config.pop("extend", None) or {})
        if not isinstance(additions, Mapping):
            raise ConfigError(f"expected a mapping, found {additions!r}.", key="extend")
        for key, leaf in flat(additions).items():
            items, target = leaf if isinstance(leaf, list) else [leaf], OmegaConf.select(config, key)
            if isinstance(target, ListConfig):
                OmegaConf.update(config, key, [*_unresolved(target), *items])
            elif isinstance(target, DictConfig) or (target is None and key in MAPPINGS):
                OmegaConf.update(config, key, dict(_tagged(item, key) for item in items), merge=True, force_add=True)
            else:
                text = f"expected a list or a mapping to extend, found {target!r}; set it with {key}=…"
                raise ConfigError(text, key=key)
    return _unresolved(config)


def resolved(source: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve the interpolations of a config's source.

    Raises: ConfigError if an interpolation leads nowhere, to itself or to more than a config can hold, if a mandatory
      value is missing, or for what `policy.check_content` refuses.
    """
    if not isinstance(train := source.get("train", {}), Mapping):  # which much is interpolated from
        raise ConfigError(f"expected a mapping, found {train!r}.", key="train")
    try:
        policy.check_content(source)
        policy.check_expansion(source)
        values: Any = OmegaConf.to_container(OmegaConf.create(dict(source)), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(f"it has no default; set it with {key}=…", key=key) from error
    except InterpolationKeyError as error:
        wanted = str(error).partition("'")[2].partition("'")[0]
        text = f"nothing sets '{wanted}', which it takes; set {wanted}=…"
        raise ConfigError(text, key=str(error.full_key)) from error
    except OmegaConfBaseException as error:
        text = plain(str(error).splitlines()[0])
        if variable := re.search(r"Environment variable '(.*)' not found", text):
            text = f"${variable[1]} is not set; export it, or write a default: ${{oc.env:{variable[1]},DEFAULT}}"
        raise ConfigError(text, key=str(error.full_key or "config")) from error
    except RecursionError as error:
        raise ConfigError("it is nested too deeply to be read.", key="config") from error
    return {str(key): value for key, value in values.items()}


@contextmanager
def naming_holders(source: Mapping[str, Any]) -> Iterator[None]:
    """Name in an error the key whose value is wrong, where the error's own key takes it by interpolation."""
    try:
        yield
    except FrameworkError as error:
        key = f"{error.key}.{error.option}" if error.option else error.key
        if (holder := holder_of(source, key)) != key:
            error.key, error.option = holder, ""
        raise


def holder_of(source: Mapping[str, Any], key: str) -> str:
    """Follow interpolations: of "schedule.value", which is `${optimizer.learning_rate}`, return that key.

    A key that differs between members is held by the strategy: "strategy.members.optimizer.learning_rate".
    """
    leaves = flat(source) | flat(source, lists=True)
    for _ in leaves:  # a chain is no longer than that
        found = re.fullmatch(r"\$\{([\w-][\w.\[\]-]*)\}", str(leaves.get(key, "")).strip())
        if found is None or found[1] not in leaves:
            break
        key = found[1]
    return f"strategy.members.{key}" if f"strategy.members.{key}" in leaves else key


def as_written(source: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's source as it is recorded: what it takes from environment variables has its value.

    Args:
      source: with interpolations.
      values: the same, resolved.
    """

    def written(node: Any, value: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: written(item, value[key]) for key, item in node.items()}
        if isinstance(node, list):
            return [written(item, each) for item, each in zip(node, value, strict=True)]
        return value if isinstance(node, str) and "oc.env" in node else node

    return {key: written(node, values[key]) for key, node in source.items()}


def changed(source: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's source with some keys set, such as `{"train.steps": 100}`; missing sections are added."""
    config = OmegaConf.create(dict(source))
    for key, value in values.items():
        OmegaConf.update(config, key, value, force_add=True)
    return _unresolved(config)


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Check the sections of a plain config, and read the core's own.

    Raises: ConfigError for an unknown section or key, or a value of the wrong type or range.
    """
    _check_sections(config)
    settings = Settings(
        seed=check(config.get("seed", 0), int, "seed", {}),
        train=_section(config, "train", Train),
        run=_section(config, "run", RunSettings),
        distributed=_section(config, "distributed", Distributed),
        debug=_section(config, "debug", Debug),
        nan_policy=check(config.get("nan_policy", "stop"), NanPolicy, "nan_policy", {}),
        precision=check(config.get("precision", "float32"), Precision, "precision", {}),
        ema=check(config.get("ema"), float | None, "ema", {}),
        init_from=None if config.get("init_from") is None else _section(config, "init_from", InitFrom),
        freeze=check(config.get("freeze") or [], tuple[str, ...], "freeze", {}),
    )
    _check_ranges(settings)
    return settings


def check_names(config: Mapping[str, Any]) -> None:
    """Check that each section of a config is the core's own, or one that its task takes.

    Raises: ConfigError naming the first other one.
    """
    names = names_of(taken_by(config))
    known = {*CORE, *names, *Settings._fields}
    for section in config:
        if section in known:
            continue
        if is_of_tasks(section):
            raise ConfigError(f"{_untaken(config, section, names)}. Remove it with ~{section}.", key=section)
        hint = " An experiment's file begins with '# @package _global_'." if section == "experiment" else ""
        raise ConfigError(f"no such section.{hint or nearest(section, known)}", key=section)


def _untaken(config: Mapping[str, Any], section: str, names: Sequence[str]) -> str:
    listed = ", ".join(names) or "none"
    return f"task '{config['task']['name']}' takes no section '{section}'; it takes {listed}"


def _check_sections(config: Mapping[str, Any]) -> None:
    check_names(config)
    taken = taken_by(config)
    names, transform = names_of(taken), "data.transform"
    if transform not in names and isinstance(data := config.get("data"), Mapping) and data.get("transform"):
        raise ConfigError(f"{_untaken(config, transform, names)}. Leave it out: {transform}=[].", key=transform)
    names = [name for name in names if name != transform]
    for section in (*CORE, *names):
        part = taken.get(section)
        is_optional = section in MAPPINGS or (part is not None and (part.is_tagged or not part.is_required))
        if (config.get(section) is None and is_optional) or isinstance(config.get(section), Mapping):
            continue  # `metrics=[]` chooses none
        group = section if part is None else KINDS[part.kind].section
        choice = f"{section}=NAME" if section == group else f"+{group}@{section}=NAME"
        text = f"expected a mapping, found {config.get(section)!r}; choose one with {choice}."
        raise ConfigError(text, key=section)


def tagged(section: Mapping[str, Any] | None, key: str) -> dict[str, dict[str, Any]]:
    """Return a section of components by tag, each with its `name`, without the tags that are null.

    Raises: ConfigError if an entry is not a mapping of options.
    """
    named = {}
    for tag, options in (section or {}).items():
        if options is None:
            continue
        if not isinstance(options, Mapping):
            raise ConfigError(f"expected options such as {{}}, found {options!r}.", key=f"{key}.{tag}")
        named[str(tag)] = {"name": str(tag), **options}
    return named


def _section(config: Mapping[str, Any], name: str, schema: Callable[..., T]) -> T:
    section = config.get(name, {})
    if name == "distributed" and (section is None or section == "auto"):
        section = {"coordinator": section}
    if name == "init_from" and isinstance(section, str):
        section = {"source": section}
    if not isinstance(section, Mapping):
        raise ConfigError(f"expected a mapping, found {section!r}.", key=name)
    return schema(**bind(schema_of(schema), section, name, f"section '{name}'", {}))


def _check_ranges(settings: Settings) -> None:
    ones = ("steps", "epochs", "steps_per_call", "accumulate", "skips_in_row")
    least = [(f"train.{name}", value, int(name in ones)) for name, value in settings.train._asdict().items()]
    least += [("run.watchdog", settings.run.watchdog, 0), ("distributed.timeout", settings.distributed.timeout, 1)]
    least += [(f"debug.{name}", getattr(settings.debug, name), 1) for name in ("limit", "overfit")]
    for key, value, low in least:
        if isinstance(value, int) and value > MAX_COUNT:
            raise ConfigError(f"found {value}, more than the {MAX_COUNT} that steps are counted to.", key=key)
        if isinstance(value, int | float) and value < low:
            raise ConfigError(f"expected at least {low}, found {value}.", key=key)
    if settings.train.steps is None and settings.train.epochs is None:
        raise ConfigError("it is null, and so is train.steps; set one of the two.", key="train.epochs")
    bytes_of(settings.run.compilation_cache_size, "run.compilation_cache_size")
    name, ema, seed = settings.run.name, settings.ema, settings.seed
    if ema is not None and not 0 < ema < 1:
        raise ConfigError(f"expected a decay between 0 and 1, such as 0.999, or null, found {ema}.", key="ema")
    if name is not None and not re.fullmatch(r"[\w+=@-][\w.+=@-]*", name):
        raise ConfigError(f"expected letters, digits and .+=@-_ for a folder, found {name!r}.", key="run.name")
    if not 0 <= seed < 2**32:  # JAX folds larger seeds into these, so that two would give the same run
        raise ConfigError(f"expected 0 to {2**32 - 1}, found {seed}.", key="seed")


def _unresolved(node: Any) -> Any:
    """Return a node as plain lists and dicts: `${train.steps}` has its value only once the data are built."""
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _tagged(item: Any, key: str) -> tuple[str, Any]:
    if isinstance(item, str):
        return item, {}
    if isinstance(item, Mapping) and len(item) == 1:
        ((tag, options),) = item.items()
        return str(tag), {} if options is None else options
    raise ConfigError(f"expected a name or {{name: options}} to extend it with, found {item!r}.", key=key)


def _lacks_rate(config: DictConfig) -> bool:
    """Tell whether the schedule is the default, a constant of a learning rate that the optimizer does not have."""
    optimizer, schedule = config.get("optimizer"), config.get("schedule")
    lacking = isinstance(optimizer, DictConfig) and "learning_rate" not in optimizer
    if not isinstance(schedule, DictConfig):
        return lacking and schedule is None
    return lacking and schedule._get_node("name") == "constant" and OmegaConf.is_interpolation(schedule, "value")
