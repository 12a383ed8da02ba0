"""Where Hydra finds configs: ours, every plugin package's, and one made up for each registered name without a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from framework.config import COMPONENTS, GROUPS
from framework.errors import ConfigError, nearest
from framework.registry import discover


class FrameworkSearchPath(SearchPathPlugin):
    """Adds the YAML packages that distributions register under `framework.conf`, then the names without a file."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append in the order of distributions' names, ours first, so that the order is the same everywhere."""
        owners = [(entry.dist.name if entry.dist else "?", entry.value) for entry in discover().groups.get("conf", ())]
        for owner, package in sorted(owners, key=lambda pair: (pair[0] != "framework", pair)):
            search_path.append(owner, f"pkg://{package}")
        search_path.append("registry", f"{RegistrySource.scheme()}://")


class RegistrySource(ConfigSource):
    """Lets `model=wide` choose a registered plugin that brings no YAML file: its config is its name."""

    @staticmethod
    def scheme() -> str:
        """The scheme of its search-path entry."""
        return "registry"

    def load_config(self, config_path: str) -> ConfigResult:
        """`name: wide`, or for metrics and callbacks, which are chosen by tag, `wide: {}`."""
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        content = {"name": name} if group in COMPONENTS else {name: {}}
        return ConfigResult(self.provider, "registry://", OmegaConf.create(content), {"package": None})

    def is_group(self, config_path: str) -> bool:
        """A group of components."""
        return config_path.strip("/") in GROUPS

    def is_config(self, config_path: str) -> bool:
        """A registered name. Catalogues are read too, which imports their library; a YAML file is found before."""
        group, _, name = config_path.removesuffix(".yaml").strip("/").rpartition("/")
        if group not in GROUPS:
            return False
        registry, kind = discover(), GROUPS[group]
        named = any(plugin.name == name for plugin in registry.named(kind))
        return named or any(plugin.name == name for plugin in registry.catalogued(kind)[0])

    def available(self) -> bool:
        """Always."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The registered names of a group; catalogues are left out, since `--help` must not import libraries."""
        group = config_path.strip("/")
        if group in GROUPS and results_filter != ObjectType.GROUP:
            return sorted({plugin.name for plugin in discover().named(GROUPS[group])})
        return []


def register() -> None:
    """Make Hydra use both; safe to call again."""
    for plugin in (FrameworkSearchPath, RegistrySource):
        Plugins.instance().register(plugin)


@contextmanager
def config_errors() -> Iterator[None]:
    """Hydra's and OmegaConf's errors as one line of ours.

    Raises: ConfigError.
    """
    try:
        yield
    except MissingConfigException as error:
        wanted = error.missing_cfg_file
        group, _, name = (wanted[0] if isinstance(wanted, list | tuple) else wanted or "").rpartition("/")
        hint = nearest(name, error.options) if error.options else ""
        raise ConfigError(f"{group or 'config'}={name}: no such config.{hint}" if name else str(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_lines(error)) from error


def _first_lines(error: Exception) -> str:
    """What Hydra says, and the cause it hides, without its hints to look at stack traces."""
    texts = [str(error), *([str(error.__cause__)] if error.__cause__ is not None else [])]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "See https", "reference_type"))]
    return " ".join(dict.fromkeys(kept))
