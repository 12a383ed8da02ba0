"""The framework from a script or a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, open_dict

from framework import search
from framework.overrides import rewrite
from framework.runner import Result, load
from framework.runner import run as run_config

__all__ = ["compose_config", "load", "run"]


def run(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Result:
    """Train, as `python -m framework …` does.

    Args:
      overrides: what one would type, such as `["+experiment=mnist", "seed=1"]`.
      config_dir: a folder of configs of one's own, as `--config-dir`.

    Raises: FrameworkError.
    """
    return run_config(*compose_config(overrides, config_dir))


def compose_config(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> tuple[DictConfig, str]:
    """Compose a config, and say which experiment it is. Hydra's global state is put back as it was.

    Raises: ConfigError.
    """
    search.register()
    words = rewrite(overrides)
    if config_dir is not None:
        words.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    with search.config_errors(), initialize_config_module("framework_conf", version_base="1.3"):
        config = compose("config", words, return_hydra_config=True)
        name = experiment_name(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
    return config, name


def experiment_name(choices: Mapping[str, Any]) -> str:
    """The name of the experiment's config; "default" when none was chosen."""
    return str(choices.get("experiment") or "default").replace("/", "_")
