"""The config of a run: composed from the words of a command line, or read from a run folder; a value in either case."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from framework.config import policy, search_path, secrets
from framework.config import words as typed
from framework.config.origins import COMMAND_LINE, Origins, Read, ReadFile
from framework.config.overrides import quoted, rewrite
from framework.config.presets import periods
from framework.config.resolve import Settings, changed, check_names, extended, naming_holders, resolved, settings_of
from framework.config.safe_load import load_yaml
from framework.errors import ConfigError
from framework.keys import flat
from framework.registry.kinds import GROUPS, MAPPINGS, OF_SWEEPS
from framework.registry.sections import DEFAULT, is_of_tasks, names_of, taken_by

CHOOSABLE = (*GROUPS, "debug")
"""Groups of files that can be chosen again for a recorded run."""

FOLLOWED = ("optimizer.learning_rate", "train.steps")
"""Keys that files of schedules interpolate."""


class Config(NamedTuple):
    """A config, checked as far as it can be before JAX is imported.

    Attributes:
      source: as written, with `extend` applied and interpolations kept.
      values: the same with interpolations resolved.
      settings: the core's own sections.
      secrets: texts that are kept off the disk.
      name: of the experiment.
      origins: where its keys were set.
    """

    source: dict[str, Any]
    values: dict[str, Any]
    settings: Settings
    secrets: frozenset[str]
    name: str
    origins: Origins

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Name in errors the key that holds an interpolated value, and add where that was set."""
        with self.origins.locating(), naming_holders(self.source):
            yield

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """Set keys of the source, such as `{"train.steps": 100}`, and resolve it again.

        Raises: ConfigError.
        """
        return _config(changed(self.source, values), self.name, self.origins)


class Base(NamedTuple):
    """Config that the chosen files make, before the last values are set.

    Attributes:
      config: without Hydra's own section.
      experiment: its name.
      files: those that were read.
    """

    config: DictConfig
    experiment: str
    files: Read

    @property
    def is_fresh(self) -> bool:
        """Tell whether all files are as they were read."""
        return all(each.is_fresh for each in self.files.values())


Kept = dict[tuple[Path | None, tuple[str, ...]], Base]
"""Bases by the folder of configs of one's own, and the words that they follow from."""


def compose(words: Sequence[str] = (), config_dir: str | Path | None = None, kept: Kept | None = None) -> Config:
    """Compose the config that the words of a command line choose. Hydra's global state is put back as it was.

    Args:
      words: overrides, such as `["+experiment=mnist", "seed=1"]`.
      config_dir: a folder of configs of one's own.
      kept: takes what is composed from files, and gives it back to words that differ in values alone, while none of
        these files changes; that costs a fifth of the time.

    Raises: ConfigError.
    """
    overrides = rewrite(words)
    origins = Origins({}, tuple(overrides))
    kept = {} if kept is None else kept
    with origins.locating():
        config, experiment = _composed(overrides, config_dir, origins.files, kept)
        config = OmegaConf.masked_copy(config, [str(key) for key in config if key not in OF_SWEEPS])
        found = _config(_without_defaults(extended(config), overrides, kept), _folder_name(experiment), origins)
        _check_rate(found)
        return found


def whole(words: Sequence[str] = (), config_dir: str | Path | None = None) -> DictConfig:
    """Compose all sections, those of a sweep too, with interpolations and additions as they are written.

    Raises: ConfigError.
    """
    overrides = rewrite(words)
    origins = Origins({}, tuple(overrides))
    with origins.locating():
        return _composed(overrides, config_dir, origins.files, {})[0]


def of_sweep(words: Sequence[str], config_dir: str | Path | None = None) -> tuple[dict[str, Any], str]:
    """Compose the sections `launcher`, `search` and `sweep`, which no run has, and the name of the experiment.

    Args:
      words: overrides of one run, and of those sections.
      config_dir: a folder of configs of one's own.

    Raises: ConfigError.
    """
    overrides = rewrite(words)
    origins = Origins({}, tuple(overrides))
    with origins.locating():
        config, experiment = _composed(overrides, config_dir, origins.files, {})
        sections = OmegaConf.create({name: config[name] for name in OF_SWEEPS if name in config})
        return resolved(extended(sections)), _folder_name(experiment)


def recorded(run_folder: str | Path, words: Sequence[str] = (), config_dir: str | Path | None = None) -> Config:
    """Read the config of a run folder as it was written, and resolve it with overrides.

    A choice such as `optimizer=sgd` puts the file of that name in the place of the recorded section; values come after
    all choices.

    Args:
      run_folder: holds `config.yaml`, in which interpolations are kept. Older ones have numbers in their place.
      words: overrides.
      config_dir: a folder of configs of one's own, for choices.

    Raises: ConfigError if there is no readable `config.yaml`, it held secrets that the words don't give, or a word is
      no override of a recorded config.
    """
    path, overrides = Path(run_folder) / "config.yaml", rewrite(words)
    origins = Origins({"config": ReadFile.begun(path, "")}, tuple(overrides))
    with origins.locating():
        with search_path.config_errors():
            parsed = typed.read(overrides)
            content, _ = load_yaml(path)
            if not isinstance(content, dict):
                raise ConfigError(f"{path}: expected a mapping of sections, found {content!r:.40}.")
            policy.check_content(content)
            config = OmegaConf.create(content)
            OmegaConf.update(config, "run.dir", None, force_add=True)  # it is taken; an override may name another
            chosen = [override for override in parsed if _is_choice(override)]
            if chosen:
                _choose(config, chosen, config_dir, origins)
            values = [override for override in parsed if override not in chosen]
            _check_followed(config, values)
            for override in values:
                _apply(config, override)
        found = _config(extended(config), path.resolve().parent.parent.name, origins)
        secrets.check_unmasked(found.values)
        _check_rate(found)
        return found


def _composed(
    overrides: Sequence[str], config_dir: str | Path | None, read: Read, kept: Kept
) -> tuple[DictConfig, str]:
    """Return what Hydra composes without its own section, and the name of the experiment."""
    folder = None if config_dir is None else Path(config_dir).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{config_dir} is no folder.", key="config_dir")
    with search_path.config_errors():
        parsed = typed.read(overrides)
        first, values = _in_two(parsed)
        key = folder, tuple(str(override.input_line) for override in first)
        if (base := kept.get(key)) is None or not base.is_fresh:
            base = kept[key] = _base(key[1], folder, read)
        read.update(base.files)
        config = copy.deepcopy(base.config)
        OmegaConf.set_struct(config, True)  # as Hydra does: a key that is not there needs a plus
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        OmegaConf.set_struct(config, None)
        _keep_chosen(config, parsed)
        return config, base.experiment


def _base(chosen: Sequence[str], folder: Path | None, read: Read) -> Base:
    """Let Hydra compose what words choose, and note the files that it reads."""
    words = list(chosen)
    if folder is not None:
        words.append(f"hydra.searchpath=[{quoted(f'file://{folder}')}]")
    with search_path.session(read), hydra.initialize_config_module("framework_conf", version_base="1.3"):
        composed = hydra.compose("config", words, return_hydra_config=True)
        config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        experiment = str(composed.hydra.runtime.choices.get("experiment") or "default")
        return Base(config, experiment, dict(read))


def _in_two(overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
    """Sort overrides into those that Hydra needs to compose files, and the values that can be set after that.

    Hydra composes the chosen files first, and then sets the values in their order. A word such as `ema=0.9` is left to
    it, since the name of a user's group would look the same, and so are the values before that word.
    """
    unclear = [index for index, each in enumerate(overrides) if not (_chooses(each) or _is_value(each))]
    begin = max(unclear, default=-1) + 1
    values = [each for each in overrides[begin:] if _is_value(each)]
    return [*overrides[:begin], *(each for each in overrides[begin:] if not _is_value(each))], values


def _chooses(override: Override) -> bool:
    return _is_choice(override) or override.key_or_group == "experiment"


def _is_value(override: Override) -> bool:
    """Tell an override that can only be a value: of the seed or of a key with a dot, or a mapping."""
    key = override.key_or_group
    if override.package is not None or "/" in key or policy.is_hydras(key):
        return False
    return key == "seed" or "." in key or (not override.is_delete() and isinstance(override.value(), dict))


def _keep_chosen(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Let a list that words choose be the whole list: `probes=[]` leaves out those whose options an experiment sets.

    Of several lists for one section, the last counts.
    """
    lists = {each.key_or_group: each.value() for each in overrides if _is_choice(each)}
    for section in MAPPINGS.keys() & lists.keys():
        chosen: Any = [lists[section]] if isinstance(lists[section], str) else lists[section]
        names = {name.rpartition(":")[2] for name in chosen}  # `acme:theirs` of two packages' is tagged `theirs`
        keys = [each.key_or_group for each in overrides if each.key_or_group.startswith(f"{section}.")]
        names.update(key.split(".")[1] for key in keys)
        held = config.get(section)
        for name in [name for name in held or () if name not in names]:
            held.pop(name)


def _folder_name(experiment: str) -> str:
    return re.sub(r"[^\w.-]", "_", experiment).lstrip(".")


def _without_defaults(source: dict[str, Any], overrides: Sequence[str], kept: Kept) -> dict[str, Any]:
    """Leave out the sections that the task does not take, where they are as `conf/config.yaml` has them."""
    names = names_of(taken_by(source))
    others = [section for section in source if is_of_tasks(section) and section not in names]
    if not others:
        return source
    defaults, words = extended(_composed((), None, {}, kept)[0]), set(map(_section_of, overrides))
    is_default = {name: source[name] == defaults.get(name) and name not in words for name in others}
    dropped = [name for name in others if not source[name] or is_default[name]]
    return {name: section for name, section in source.items() if name not in dropped}


def _section_of(word: str) -> str:
    """Return the section that an override sets: of `model@generator=mlp` that is `generator`."""
    key = word.lstrip("+~").partition("=")[0]
    return re.split(r"[.:]", key.rpartition("@")[2])[0]


def _is_choice(override: Override) -> bool:
    """Tell a choice of files, such as `optimizer=sgd` or `metrics=[accuracy,auc]`, from values and deletions."""
    if override.key_or_group not in CHOOSABLE or override.is_delete():
        return False
    value = override.value()
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _choose(config: DictConfig, chosen: list[Override], config_dir: str | Path | None, origins: Origins) -> None:
    """Put the sections of the chosen files in the place of the recorded ones."""
    read: Read = {}
    composed, _ = _composed([str(override.input_line) for override in chosen], config_dir, read, {})
    groups = {override.key_or_group for override in chosen}
    plain: Any = OmegaConf.to_container(config)
    if "optimizer" in groups and plain.get("schedule") == {"name": "constant"}:
        groups.add("schedule")  # the recorded optimizer had no learning rate, so that its schedule has no value
    origins.files.update({path: file for path, file in read.items() if path.partition("/")[0] in groups})
    for group in groups:
        config[group] = composed[group]


def _apply(config: DictConfig, override: Override) -> None:
    """Set or delete one value of a recorded config.

    Raises: ConfigError if the override is of another kind, or there is nothing to delete.
    """
    word, key = str(override.input_line), override.key_or_group
    if key == "experiment":
        raise ConfigError("the run has its experiment; choose parts such as model=NAME, or name no run.", key=word)
    if "/" in key:
        raise ConfigError("a recorded config takes one value for a key, or a name for a section.", key=word)
    if not override.is_delete():
        OmegaConf.update(config, key, override.value(), force_add=True)
        return
    parent, _, name = key.rpartition(".")
    section = OmegaConf.select(config, parent) if parent else config
    if not isinstance(section, DictConfig) or name not in section:
        raise ConfigError("the recorded config has no such key to remove.", key=key)
    del section[name]


def _check_followed(config: DictConfig, overrides: list[Override]) -> None:
    """Check that an override reaches the schedule, in which older runs recorded numbers in place of interpolations.

    Raises: ConfigError naming an option of the schedule that holds the former value.
    """
    given = {override.key_or_group for override in overrides}
    plain: Any = OmegaConf.to_container(config)
    for key in given.intersection(FOLLOWED):
        former = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        for option, value in flat(plain.get("schedule"), "schedule").items():
            if isinstance(value, int | float) and value == former and option not in given:
                text = f"{option} was recorded as {value}, and does not follow; set {option}=… too"
                raise ConfigError(f"{text}, or {option}={value} to keep it.", key=key)


def _check_rate(config: Config) -> None:
    """Check that a learning rate of the command line reaches the schedule, which takes its place in the optimizer.

    A rate in a file may be left unused, since a word or another file that sets the schedule is meant to replace it.

    Raises: ConfigError naming the schedule and its option that sets the rate in its place.
    """
    key = "optimizer.learning_rate"
    rate, leaves = flat(config.values).get(key), flat(config.source)
    swept = {name.removeprefix("strategy.members.") for name in leaves if name.startswith("strategy.members.")}
    used = [str(value) for name, value in leaves.items() if name not in swept]
    if any(re.search(r"(?<!\w)optimizer\.learning_rate\b", value) for value in used):
        return
    if not config.values.get("schedule") or config.origins.of(key) != COMMAND_LINE:
        return
    options = flat(config.values["schedule"], "schedule", lists=True)
    options = {name: value for name, value in options.items() if name not in {*swept, "schedule.name"}}
    if rate is None or rate in options.values():
        return
    words = [f" by {name}={value}" for name, value in options.items() if config.origins.of(name) == COMMAND_LINE]
    name = config.values["schedule"].get("name")
    text = f"the schedule '{name}' sets the rate itself{''.join(words[:1])}, so that {rate} has no effect"
    raise ConfigError(f"{text}; leave one out.", key=key)


def _config(source: dict[str, Any], name: str, origins: Origins) -> Config:
    source = {"task": {"name": DEFAULT}, **source}  # older runs recorded none
    with naming_holders(source):
        check_names(source)  # first, since interpolations of a section that nobody takes may lead nowhere
        preset = periods(source)
        values = resolved(changed(source, preset) if preset else source)
        settings, hidden = settings_of(values), secrets.secrets_of(values)
        secrets.check_names(settings.run._asdict(), hidden)
        return Config(source, values, settings, hidden, settings.run.name or name, origins)
