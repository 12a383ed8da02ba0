"""Origins of config values, defaults of factories, and keys that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from framework.config.compose import Config
from framework.experiment import Experiment
from framework.keys import flat
from framework.registry.kinds import KINDS
from framework.registry.signatures import REQUIRED, schema_of


class Value(NamedTuple):
    """One value of a config.

    Attributes:
      key: dotted, such as "optimizer.learning_rate".
      value: as the run gets it.
      origin: "conf/experiment/mnist.yaml:7", "command line", "default of model 'mlp'", or "unknown".
      unread: the reason why nobody reads it; "" if somebody does.
    """

    key: str
    value: Any
    origin: str
    unread: str


def unread_of(config: Config, experiment: Experiment) -> list[Value]:
    """List the values that change nothing, and were set elsewhere than in the base of all configs."""
    written = flat(config.values)
    rows = [
        Value(key, written[key], _origin(config, key), reason)
        for key, reason in unread_keys(config, experiment).items()
    ]
    return [row for row in rows if "config.yaml:" not in row.origin]


def values_of(config: Config, experiment: Experiment) -> list[Value]:
    """List every value of a config with its origin, then the defaults of factories that no file sets."""
    unread = unread_keys(config, experiment)
    written = flat(config.values)
    rows = [Value(key, value, _origin(config, key), unread.get(key, "")) for key, value in written.items()]
    for key, value, owner in _defaults(experiment):
        if key not in written and not any(other.startswith(f"{key}.") for other in written):
            rows.append(Value(key, value, f"default of {owner}", ""))
    return rows


def unread_keys(config: Config, experiment: Experiment) -> dict[str, str]:
    """Return the keys that change nothing in this run, each with the reason.

    A key that no component knows is refused when the experiment is built. These are known, and without effect.
    """
    settings = config.settings
    train, memory = settings.train, experiment.batches.in_memory()
    callbacks = config.values.get("callbacks") or {}
    is_alone = settings.distributed.coordinator is None
    rules = {
        "train.epochs": (train.steps is not None, "train.steps decides how long it trains"),
        "train.skips_in_row": (settings.nan_policy != "skip", "only nan_policy=skip undoes updates"),
        "train.resident_mib": (memory is None, "the data do not lie in memory"),
        "train.checkpoint_every": ("checkpoint" not in callbacks, "there is no callbacks.checkpoint"),
        "run.root": (settings.run.dir is not None, "run.dir names the folder"),
        "run.compilation_cache_size": (not settings.run.compilation_cache, "run.compilation_cache is false"),
        "run.watchdog": (is_alone, "there is one process"),
        "distributed.processes": (is_alone, "there is one process"),
        "distributed.process": (is_alone, "there is one process"),
        "distributed.timeout": (is_alone, "there is one process"),
    }
    unread = {key: reason for key, (holds, reason) in rules.items() if holds}
    written = flat(config.values)
    if "schedule" not in experiment.plugins:
        unread |= {key: "the optimizer takes no schedule" for key in written if key.startswith("schedule.")}
    return {key: reason for key, reason in unread.items() if key in written}


def _origin(config: Config, key: str) -> str:
    """Say where a key was set, without the words that messages put around it."""
    found = config.origins.of(key).strip("()").removeprefix("set ")
    return found.removeprefix("in ").removeprefix("on the ") or "unknown"


def _defaults(experiment: Experiment) -> Iterator[tuple[str, Any, str]]:
    """Yield key, default and owner of the options of every component."""
    for key, plugin in experiment.plugins.items():
        if "[" not in key:  # entries of lists are named by position, and listed as one value
            for option in schema_of(plugin.load()).options:
                if option.default is not REQUIRED:
                    yield f"{key}.{option.name}", option.default, f"{KINDS[plugin.kind].noun} '{plugin.name}'"
