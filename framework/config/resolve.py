"""The composed config as the core reads it: sections and their types are checked here, before JAX is imported."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from framework.config import policy
from framework.config.settings import Debug, Distributed, NanPolicy, Precision, RunSettings, Train
from framework.config.sizes import bytes_of
from framework.errors import ConfigError, nearest
from framework.registry.kinds import GROUPS, MAPPINGS
from framework.registry.signatures import bind, check, schema_of


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


def share_of_steps(share: float, *, _root_: DictConfig) -> int | None:
    """Resolve `${steps:0.1}`: that share of `train.steps`, rounded; null while unknown."""
    steps = OmegaConf.select(_root_, "train.steps")
    return None if steps is None else round(float(share) * steps)


OmegaConf.register_new_resolver("steps", share_of_steps, replace=True)


def plain(config: DictConfig) -> dict[str, Any]:
    """Interpolations resolved, as dicts and lists.

    Raises: ConfigError if an interpolation leads nowhere, to itself or to more than a config can hold, if a mandatory
      value is missing, or for what `policy.check_content` refuses.
    """
    unresolved = _unresolved(config)
    policy.check_content(unresolved)
    policy.check_expansion(unresolved)
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: it has no default; set it with {error.full_key}=…") from error
    except InterpolationKeyError as error:
        found = re.search(r"'(.*)'", str(error))
        wanted = found[1] if found else "?"
        raise ConfigError(f"{error.full_key}: nothing sets '{wanted}', which it takes; set {wanted}=…") from error
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or "config"
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ConfigError("config: it is nested too deeply to be read.") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def extended(config: DictConfig) -> DictConfig:
    """Apply the section `extend`: append its lists to the lists, and add its names to the mappings, of the same key.

    `extend.model.layers: [Relu]` appends a layer; `extend.metrics: [perplexity, {top_k_accuracy: {k: 3}}]` adds two.

    Raises: ConfigError if there is nothing to extend under a key, or it is neither a list nor a mapping.
    """
    config = copy.copy(config)
    with open_dict(config):
        if isinstance(config.get("optimizer"), DictConfig) and "learning_rate" not in config.optimizer:
            config.schedule = {"name": "constant"}  # of a learning rate that is not there: never built
        additions = _unresolved(config.pop("extend", None) or {})
        for key, items in _leaves(additions, ""):
            target = OmegaConf.select(config, key)
            if isinstance(target, ListConfig):
                OmegaConf.update(config, key, [*_unresolved(target), *items])
            elif isinstance(target, DictConfig) or (target is None and key in MAPPINGS):
                OmegaConf.update(config, key, dict(_tagged(item, key) for item in items), merge=True, force_add=True)
            else:
                raise ConfigError(
                    f"{key}: expected a list or a mapping to extend, found {target!r}; set it with {key}=…"
                )
    return config


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Check the sections of a plain config, and read the core's own.

    Raises: ConfigError for an unknown section or key, or a value of the wrong type or range.
    """
    known = {*GROUPS, *Settings._fields}
    for section in config:
        if section not in known:
            hint = " An experiment's file begins with '# @package _global_'." if section == "experiment" else ""
            raise ConfigError(f"{section}: no such section.{hint or nearest(section, known)}")
    for section in GROUPS:
        if config.get(section) is None and section in MAPPINGS:
            continue  # `metrics=[]` chooses none
        if not isinstance(config.get(section), Mapping):
            raise ConfigError(
                f"{section}: expected a mapping, found {config.get(section)!r}; choose one with {section}=NAME."
            )
    settings = Settings(
        seed=check(config.get("seed", 0), int, "seed", {}),
        train=Train(**_section(config, "train", Train)),
        run=RunSettings(**_section(config, "run", RunSettings)),
        distributed=Distributed(**_section(config, "distributed", Distributed)),
        debug=Debug(**_section(config, "debug", Debug)),
        nan_policy=check(config.get("nan_policy", "stop"), NanPolicy, "nan_policy", {}),
        precision=check(config.get("precision", "float32"), Precision, "precision", {}),
        ema=check(config.get("ema"), float | None, "ema", {}),
    )
    _check_ranges(settings)
    return settings


def tagged(section: Mapping[str, Any] | None, key: str) -> dict[str, dict[str, Any]]:
    """A section of components by tag, each with its `name`; a tag set to null is left out.

    Raises: ConfigError if an entry is not a mapping of options.
    """
    named = {}
    for tag, options in (section or {}).items():
        if options is None:
            continue
        if not isinstance(options, Mapping):
            raise ConfigError(f"{key}.{tag}: expected options such as {{}}, found {options!r}.")
        named[str(tag)] = {"name": str(tag), **options}
    return named


def _section(config: Mapping[str, Any], name: str, schema: type) -> dict[str, Any]:
    section = config.get(name, {})
    if name == "distributed" and (section is None or section == "auto"):
        section = {"coordinator": section}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name}: expected a mapping, found {section!r}.")
    return bind(schema_of(schema), section, name, f"section '{name}'", {})


def _check_ranges(settings: Settings) -> None:
    for name, value in settings.train._asdict().items():
        low = 1 if name in ("steps", "epochs", "steps_per_call", "accumulate", "skips_in_row") else 0
        if isinstance(value, int) and value < low:
            raise ConfigError(f"train.{name}: expected at least {low}, found {value}.")
    waits = ("run.watchdog", settings.run.watchdog, 0), ("distributed.timeout", settings.distributed.timeout, 1)
    for key, seconds, least in waits:
        if seconds < least:
            raise ConfigError(f"{key}: expected at least {least} seconds, found {seconds}.")
    bytes_of(settings.run.compilation_cache_size, "run.compilation_cache_size")
    if settings.ema is not None and not 0 < settings.ema < 1:
        raise ConfigError(f"ema: expected a decay between 0 and 1, such as 0.999, or null, found {settings.ema}.")
    if settings.run.name is not None and not re.fullmatch(r"[\w+=@-][\w.+=@-]*", settings.run.name):
        raise ConfigError(f"run.name: expected letters, digits and .+=@-_ for a folder, found {settings.run.name!r}.")
    if not 0 <= settings.seed < 2**32:  # JAX folds larger seeds into these, so that two would give the same run
        raise ConfigError(f"seed: expected 0 to {2**32 - 1}, found {settings.seed}.")


def _unresolved(node: Any) -> Any:
    """A node as plain lists and dicts: `${train.steps}` has its value only once the data are built."""
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _leaves(node: Any, prefix: str) -> list[tuple[str, list[Any]]]:
    """The lists in a nested mapping, by dotted key; a single value stands for a list of one."""
    if isinstance(node, Mapping):
        return [leaf for name in node for leaf in _leaves(node[name], f"{prefix}.{name}" if prefix else str(name))]
    if not prefix:
        raise ConfigError(f"extend: expected a mapping, found {node!r}.")
    return [(prefix, node if isinstance(node, list) else [node])]


def _tagged(item: Any, key: str) -> tuple[str, Any]:
    if isinstance(item, str):
        return item, {}
    if isinstance(item, Mapping) and len(item) == 1:
        ((tag, options),) = item.items()
        return str(tag), {} if options is None else options
    raise ConfigError(f"{key}: expected a name or {{name: options}} to extend it with, found {item!r}.")


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested mapping by dotted key."""
    if isinstance(node, Mapping):
        return {key: value for name in node for key, value in flat(node[name], f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): node}
