"""The framework from a script or a notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from framework.config import origins, policy, search_path, secrets
from framework.config.overrides import rewrite
from framework.config.resolve import plain
from framework.config.safe_load import load_yaml
from framework.errors import ConfigError
from framework.runs.resume import read
from framework.runs.run import Result
from framework.runs.run import resume as resume_config
from framework.runs.run import run as run_config
from framework.runs.trained_model import load
from framework.startup import seldom_collected

__all__ = ["compose_config", "load", "recorded_config", "resume", "run"]


@seldom_collected()
def run(
    overrides: Sequence[str] = (), config_dir: str | Path | None = None, recorded: str | Path | None = None
) -> Result:
    """Train, as `python -m framework …` does.

    Args:
      overrides: what one would type, such as `["+experiment=mnist", "seed=1"]`.
      config_dir: a folder of configs of one's own, as `--config-dir`.
      recorded: a run folder whose `config.yaml` is run again, instead of composing one.

    Raises: FrameworkError.
    """
    if recorded is not None:
        with origins.told(lambda: origins.recorded(recorded, overrides)):
            return run_config(*recorded_config(recorded, overrides))
    with origins.told(lambda: origins.composed(overrides, config_dir)):
        return run_config(*compose_config(overrides, config_dir))


@seldom_collected()
def resume(run_folder: str | Path, overrides: Sequence[str] = (), force: bool = False) -> Result:
    """Go on with a stopped run, bit for bit as if it had not stopped; a finished one is left as it is.

    Args:
      run_folder: of the run.
      overrides: such as `["train.steps=2000"]`.
      force: allow overrides that change what the run computes.

    Raises: FrameworkError.
    """
    recorded = read(Path(run_folder))
    with origins.told(lambda: origins.recorded(run_folder, overrides)):
        config, _ = recorded_config(run_folder, overrides)
        return resume_config(recorded, config, force)


def compose_config(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> tuple[DictConfig, str]:
    """Compose a config, and say which experiment it is. Hydra's global state is put back as it was.

    Raises: ConfigError.
    """
    folder = None if config_dir is None else Path(config_dir).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"config_dir: {folder} is no folder.")
    with search_path.session(), initialize_config_module("framework_conf", version_base="1.3"):
        words = rewrite(overrides)
        policy.check_words(words)
        words += [] if folder is None else [f"hydra.searchpath=['file://{folder}']"]
        config = compose("config", words, return_hydra_config=True)
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
