"""A plan: what a command asks of a sweep, as plain values that the ledger keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framework.config import words as typed
from framework.config.compose import of_sweep
from framework.contracts.launcher import Launcher
from framework.contracts.search import Choice, Goal, Interval, Search, Space
from framework.errors import ConfigError
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.registry.sections import taken_by
from framework.startup import import_jax
from framework.sweeps import space as spaces
from framework.sweeps.folder import identity_of
from framework.sweeps.points import config_of, forget
from framework.sweeps.settings import SweepSettings, metrics_of, read_settings

GROWING = ("trials", "points")
"""Options of searches that are numbers of points: more of them go on with the sweep."""


class Plan(NamedTuple):
    """The parts of a command.

    Attributes:
      name: of the experiment.
      words: overrides that every point has.
      own: overrides of the sections launcher, search and sweep, and words for one of Hydra's launchers.
      config_dir: a folder of configs of one's own, or None.
      space: the dimensions.
      launcher: its section.
      search: its section.
      sweep: the settings of its section.
    """

    name: str
    words: tuple[str, ...]
    own: tuple[str, ...]
    config_dir: str | None
    space: Space
    launcher: dict[str, Any]
    search: dict[str, Any]
    sweep: dict[str, Any]

    @property
    def settings(self) -> SweepSettings:
        """The settings, checked."""
        return read_settings(self.sweep)

    @property
    def identity(self) -> str:
        """A hash of what the same command has in common, in whichever order its words stand."""
        return identity_of(sorted(self.alike))

    @property
    def alike(self) -> frozenset[str]:
        """Words that all commands of one sweep have in common: all but values of dimensions and numbers of points.

        Options of the search count, and so does its seed: another one would choose other points.
        """
        options = {f"search.{key}": value for key, value in self.search.items() if key not in ("name", *GROWING)}
        chosen = spaces.words_of(
            {"search": self.search["name"], **options, "sweep.search_seed": self.settings.search_seed}
        )
        return frozenset({*self.words, *map(_word, self.space), *chosen})

    def in_order_of(self, other: Plan) -> Plan:
        """Return the plan with its dimensions in the order of another one, which decides the numbers of points."""
        places = {_word(each): place for place, each in enumerate(other.space)}
        return self._replace(space=sorted(self.space, key=lambda each: places.get(_word(each), len(places))))


def read(words: Sequence[str], config_dir: str | None = None) -> Plan:
    """Read a command, and check what can be checked without a run.

    Raises: ConfigError.
    """
    forget()
    if config_dir is not None and not Path(config_dir).expanduser().is_dir():
        raise ConfigError(f"{config_dir} is no folder.", key="config_dir")
    sorted_words = spaces.read(words, config_dir)
    firsts = {key: value for each in sorted_words.dimensions for key, value in _first(each).items()}
    if sorted_words.theirs and any(word.lstrip("+").startswith("launcher") for word in sorted_words.own):
        raise ConfigError("one of Hydra's launchers is chosen too; leave one out.", key="launcher")
    alike = [*sorted_words.fixed, *spaces.words_of(firsts)]
    sections, name = of_sweep([*alike, *sorted_words.own], config_dir)
    section = sections.get("sweep") or {}
    settings = read_settings(section)
    space = spaces.declared(section, sorted_words)
    config = config_of((*sorted_words.fixed, *spaces.words_of(_firsts(space))), config_dir)
    if not space:
        raise ConfigError("nothing is to differ; list values, such as seed=0,1,2, or give the section sweep some.")
    return Plan(
        config.settings.run.name or name,
        sorted_words.fixed,
        (*sorted_words.own, *sorted_words.theirs),
        config_dir,
        space,
        sections["launcher"],
        sections["search"],
        settings._asdict(),
    )


def _word(dimension: Choice | Interval) -> str:
    """Write a dimension without the values of a choice, to which others may be added."""
    if isinstance(dimension, Interval):
        kind = "".join(f",{name}" for name in ("log", "integer") if getattr(dimension, name))
        return f"{dimension.key}=interval({dimension.low},{dimension.high}{kind})"
    return f"{','.join(sorted(dimension.keys))}=…"


def goals_of(plan: Plan) -> list[Goal]:
    """Return the metrics to improve, each with its direction, which a metric that is no loss is built for.

    Raises: ConfigError if a direction is not known.
    """
    settings = plan.settings
    return [Goal(tag, _is_high_good(plan, tag, settings.mode)) for tag in metrics_of(settings)]


def search_of(plan: Plan) -> Search:
    """Build the search. Raises: ConfigError, PluginError."""
    return Builder(discover()).named("searches", plan.search, "search")


def launcher_of(plan: Plan) -> Launcher:
    """Build the launcher, which may be one of Hydra's. Raises: ConfigError, PluginError."""
    if theirs := [word for word in plan.own if typed.is_of_launcher(word)]:
        from framework.sweeps.hydra_launcher import HydraLauncher

        return HydraLauncher(theirs)
    return Builder(discover()).named("launchers", plan.launcher, "launcher")


def _first(dimension: Choice | Interval) -> dict[str, Any]:
    if isinstance(dimension, Choice):
        return dict(zip(dimension.keys, dimension.values[0], strict=True))
    return {dimension.key: int(dimension.low) if dimension.integer else dimension.low}


def _firsts(space: Space) -> dict[str, Any]:
    return {key: value for each in space for key, value in _first(each).items()}


def _is_high_good(plan: Plan, tag: str, mode: str) -> bool:
    name = tag.partition("/")[2].partition("/")[0]
    if mode != "auto" or name == "loss":
        return mode == "max"
    config = config_of((*plan.words, *spaces.words_of(_firsts(plan.space))), plan.config_dir)
    found = (config.values.get("metrics") or {}).get(name)
    if not isinstance(found, Mapping) and "metrics" in taken_by(config.values):
        known = ", ".join(["loss", *(config.values.get("metrics") or {})])
        text = f"the run has no metric '{name}', so that its direction is not known (known: {known})"
        raise ConfigError(f"{text}; set sweep.mode=max or min.", key="sweep.metric")
    import_jax()
    metric = Builder(discover()).named("metrics", {"name": name, **(found or {})}, f"metrics.{name}")
    if metric.higher_is_better is None:
        raise ConfigError(f"'{tag}' declares no direction; set sweep.mode=max or min.", key="sweep.mode")
    return bool(metric.higher_is_better)
