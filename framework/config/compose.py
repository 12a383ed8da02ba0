"""The config of a run: composed from the words of a command line, or read from a run folder; a value in either case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from framework.config import policy, search_path, secrets
from framework.config.origins import Origins
from framework.config.overrides import rewrite
from framework.config.resolve import Settings, changed, extended, resolved, settings_of
from framework.config.safe_load import load_yaml
from framework.errors import ConfigError


class Config(NamedTuple):
    """A config, checked as far as it can be before JAX is imported.

    Attributes:
      source: as written, with `extend` applied and interpolations kept.
      values: the same with interpolations resolved.
      settings: the core's own sections.
      secrets: texts that are kept off the disk.
      name: of the experiment.
      origins: where its keys were set, for errors: `with config.origins.locating(): …`.
    """

    source: dict[str, Any]
    values: dict[str, Any]
    settings: Settings
    secrets: frozenset[str]
    name: str
    origins: Origins

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """Set keys of the source, such as `{"train.steps": 100}`, and resolve it again.

        Raises: ConfigError.
        """
        return _config(changed(self.source, values), self.name, self.origins)


def compose(words: Sequence[str] = (), config_dir: str | Path | None = None) -> Config:
    """Compose the config that the words of a command line choose. Hydra's global state is put back as it was.

    Args:
      words: overrides, such as `["+experiment=mnist", "seed=1"]`.
      config_dir: a folder of configs of one's own.

    Raises: ConfigError.
    """
    overrides = rewrite(words)
    origins = Origins({}, tuple(overrides))
    with origins.locating():
        if config_dir is not None:
            folder = Path(config_dir).expanduser().resolve()
            if not folder.is_dir():
                raise ConfigError(f"{folder} is no folder.", key="config_dir")
            overrides = [*overrides, f"hydra.searchpath=['file://{folder}']"]
        with (
            search_path.session(origins.files),
            hydra.initialize_config_module("framework_conf", version_base="1.3"),
        ):
            policy.check_words(origins.words)
            composed = hydra.compose("config", overrides, return_hydra_config=True)
            experiment = composed.hydra.runtime.choices.get("experiment") or "default"
            config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        return _config(extended(config), re.sub(r"[^\w.-]", "_", str(experiment)).lstrip("."), origins)


def recorded(run_folder: str | Path, words: Sequence[str] = ()) -> Config:
    """Read the config of a run folder, and apply overrides of single values; its groups can't be chosen again.

    Raises: ConfigError if there is no readable `config.yaml`, it held secrets that the words don't give, or a word is
      no override of a single value.
    """
    path, overrides = Path(run_folder) / "config.yaml", rewrite(words)
    origins = Origins({"config": (path, "")}, tuple(overrides))
    with origins.locating():
        with search_path.config_errors():
            policy.check_words(overrides)
            content, _ = load_yaml(path)
            if not isinstance(content, dict):
                raise ConfigError(f"{path}: expected a mapping of sections, found {content!r:.40}.")
            policy.check_content(content)
            config = OmegaConf.create(content)
            OmegaConf.update(config, "run.dir", None, force_add=True)  # it is taken; an override may name another
            for override in OverridesParser.create().parse_overrides(overrides):
                if override.is_delete() or override.is_sweep_override() or "/" in override.key_or_group:
                    raise ConfigError("a recorded config takes key=value only.", key=str(override.input_line))
                OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
        found = _config(extended(config), path.resolve().parent.parent.name, origins)
        secrets.check_unmasked(found.values)
        return found


def _config(source: dict[str, Any], name: str, origins: Origins) -> Config:
    values = resolved(source)
    settings, hidden = settings_of(values), secrets.secrets_of(values)
    secrets.check_names(settings.run._asdict(), hidden)
    return Config(source, values, settings, hidden, settings.run.name or name, origins)
