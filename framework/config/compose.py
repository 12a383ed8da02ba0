"""From words of a command line, or a run's record, to one composed config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from framework.config import policy, search_path, secrets
from framework.config.overrides import is_word, rewrite
from framework.config.resolve import Settings, extended, plain, settings_of
from framework.config.safe_load import load_yaml
from framework.errors import ConfigError


class Config(NamedTuple):
    """A composed config, checked as far as it can be before JAX is imported.

    Attributes:
      source: as written, with `extend` applied and interpolations kept.
      values: the same with interpolations resolved.
      settings: the core's own sections.
      secrets: texts that are kept off the disk.
      name: of the experiment.
    """

    source: dict[str, Any]
    values: dict[str, Any]
    settings: Settings
    secrets: frozenset[str]
    name: str


def compose(words: Sequence[str] = (), config_dir: str | Path | None = None) -> Config:
    """Compose the config that the words of a command line choose.

    Args:
      words: overrides, such as `["+experiment=mnist", "seed=1"]`.
      config_dir: a folder of configs of one's own.

    Raises: ConfigError.
    """
    return _config(*compose_config(words, config_dir))


def recorded(run_folder: str | Path, words: Sequence[str] = ()) -> Config:
    """Read the config of a run folder, and apply overrides of single values to it.

    Raises: ConfigError.
    """
    return _config(*recorded_config(run_folder, words))


def _config(config: DictConfig, name: str) -> Config:
    config = extended(config)
    source: Any = OmegaConf.to_container(config, resolve=False)
    values = plain(config)
    return Config(source, values, settings_of(values), secrets.secrets_of(values), name)


def compose_config(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> tuple[DictConfig, str]:
    """Compose a config, and say which experiment it is. Hydra's global state is put back as it was.

    Raises: ConfigError.
    """
    folder = None if config_dir is None else Path(config_dir).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"config_dir: {folder} is no folder.")
    with search_path.session(), hydra.initialize_config_module("framework_conf", version_base="1.3"):
        words = rewrite(overrides)
        policy.check_words(words)
        words += [] if folder is None else [f"hydra.searchpath=['file://{folder}']"]
        config = hydra.compose("config", words, return_hydra_config=True)
        name = experiment_name(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
    return config, name


def recorded_config(run_folder: str | Path, overrides: Sequence[str] = ()) -> tuple[DictConfig, str]:
    """The config of a finished run, with overrides of single values; its groups were resolved and can't be chosen.

    Raises: ConfigError if there is no readable `config.yaml`, or an override is not of a single value.
    """
    path = Path(run_folder) / "config.yaml"
    words = rewrite(overrides)
    with search_path.config_errors():
        policy.check_words(words)
        content, _ = load_yaml(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: expected a mapping of sections, found {content!r:.40}.")
        policy.check_content(content)
        config = OmegaConf.create(content)
        OmegaConf.update(config, "run.dir", None, force_add=True)  # it is taken; an override may name another
        for override in OverridesParser.create().parse_overrides(words):
            if override.is_delete() or override.is_sweep_override() or "/" in override.key_or_group:
                raise ConfigError(f"{override.input_line}: a recorded config takes key=value only.")
            OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
    secrets.check_unmasked(plain(config))
    return config, str(OmegaConf.select(config, "run.name") or path.resolve().parent.parent.name)


def experiment_name(choices: Mapping[str, Any]) -> str:
    """The name of the experiment's config; "default" when none was chosen."""
    return re.sub(r"[^\w.-]", "_", str(choices.get("experiment") or "default")).lstrip(".")


def composed(words: list[str], options: Mapping[str, str]) -> tuple[DictConfig, str]:
    """The config that overrides compose, or that of a run folder with overrides, and the name of the experiment."""
    if words and is_word(words[0]):
        from framework.config.compose import recorded_config

        return recorded_config(words[0], words[1:])
    from framework.config.compose import compose_config

    return compose_config(words, options.get("--config-dir"))
