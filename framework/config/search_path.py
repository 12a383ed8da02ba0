"""The places where Hydra finds configs: our package, those of plugins, and one made up for each name without a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import resources
from pathlib import Path
from threading import RLock
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from framework.config import policy
from framework.config.origins import Read, ReadFile
from framework.config.resolve import Settings
from framework.config.safe_load import load_yaml
from framework.errors import ConfigError, FrameworkError, nearest, plain
from framework.registry.entry_points import discover
from framework.registry.kinds import COMPONENTS, GROUPS

SECTIONS = (*GROUPS, *Settings._fields, "sweep", "experiment", "hydra")
"""Words that an override may begin with."""

_READ: ContextVar[Read | None] = ContextVar("read", default=None)
"""Files that a session has read so far; None outside of one, where a script's own Hydra is left alone."""

_SESSIONS = RLock()
"""Held by a session: Hydra's state belongs to the whole process. A job of a sweep composes within the sweep's own."""

_OWN = ("framework_conf", "hydra.conf")
"""Packages whose files may say anything; they are installed with the framework."""


class FrameworkSearchPath(SearchPathPlugin):
    """Adds the YAML packages that distributions register under `framework.conf`, then the names without a file."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append in the order of distributions' names, ours first, so that the order is the same everywhere."""
        if _READ.get() is None:
            return
        for owner, package in discover().packages()[0]:
            search_path.append(owner, f"pkg://{package}")
        search_path.append("registry", f"{RegistrySource.scheme()}://")


class RegistrySource(ConfigSource):
    """Lets `model=wide` choose a registered plugin that brings no YAML file: its config is its name."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of its search-path entry."""
        return "registry"

    def load_config(self, config_path: str) -> ConfigResult:
        """Make up `name: wide`, or for metrics and callbacks, which are chosen by tag, `wide: {name: wide}`."""
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        content = {"name": name} if group in COMPONENTS else {name.rpartition(":")[2]: {"name": name}}
        return ConfigResult(self.provider, "registry://", OmegaConf.create(content), {"package": None})

    def is_group(self, config_path: str) -> bool:
        """Look for a group of components."""
        return config_path.strip("/") in GROUPS

    def is_config(self, config_path: str) -> bool:
        """Look for a registered name, or `distribution:name`.

        Catalogues are read too, which imports their library; a YAML file is found before.
        """
        group, _, name = config_path.removesuffix(".yaml").strip("/").rpartition("/")
        kinds = ("metrics", "losses") if group == "metrics" else GROUPS.get(group, "").split()
        return any(discover().has(kind, name) for kind in kinds)  # a loss can stand as a metric

    def available(self) -> bool:
        """Return True: it needs nothing."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """List the registered names of a group; catalogues are left out, since `--help` must not import libraries."""
        group = config_path.strip("/")
        if group in GROUPS and results_filter != ObjectType.GROUP:
            return sorted({plugin.name for plugin in discover().named(GROUPS[group])})
        return []


class _Checked(ConfigSource):
    """A source of files, which stays within its folder and reads plain data that the policy allows."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file.

        Raises: ConfigError if it cannot be read, or holds what a config may not say.
        """
        folder: Any = Path(self.path) if self.scheme() == "file" else resources.files(self.path)
        file = folder.joinpath(self._normalize_file_name(config_path))
        group = config_path.rpartition("/")[0].replace("/", ".")
        read: Any = _READ.get()
        found = read[config_path] = ReadFile.begun(file, group)  # for the error, if it cannot be read
        content, text = load_yaml(file)
        header = ConfigSource._get_header_dict(text[:512])
        read[config_path] = found._replace(package=header["package"] or group)
        if self.scheme() != "pkg" or self.path not in _OWN:
            if policy.is_hydras(config_path.replace("/", ".")):
                raise ConfigError("Hydra's own groups cannot be added to.", key=config_path)
            policy.check_file(content, header["package"])
        config = OmegaConf.create({} if content is None else content)
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, header)

    def is_config(self, config_path: str) -> bool:
        """Look for a file of that name, below the folder."""
        return ".." not in config_path.split("/") and super().is_config(config_path)  # pyright: ignore[reportAbstractUsage]


class CheckedFiles(_Checked, FileConfigSource):
    """Hydra's source of files in a folder, checked."""


class CheckedPackages(_Checked, ImportlibResourcesConfigSource):
    """Hydra's source of files in a package, checked."""


@contextmanager
def session(read: Read) -> Iterator[None]:
    """Let Hydra compose our configs, in one thread at a time. Afterwards it is as before, initialised or not.

    Args:
      read: takes the files that are read, by Hydra's paths.

    Raises: ConfigError.
    """
    with _SESSIONS:
        for plugin in (FrameworkSearchPath, RegistrySource):
            Plugins.instance().register(plugin)
        before, base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
        sources: dict[str, Any] = SourcesRegistry.instance().types
        theirs = {scheme: sources[scheme] for scheme in ("file", "pkg")}
        GlobalHydra.instance().clear()
        reading = _READ.set(read)
        sources |= {"file": CheckedFiles, "pkg": CheckedPackages}
        try:
            with config_errors():
                yield
        finally:
            sources |= theirs
            _READ.reset(reading)
            GlobalHydra.instance().hydra, VersionBase.instance().version_base = before, base


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one line of ours.

    Raises: ConfigError.
    """
    try:
        yield
    except FrameworkError:
        raise
    except MissingConfigException as error:
        missing = error.missing_cfg_file or ""
        group = "hydra/launcher" if missing.startswith("hydra/launcher/") else missing.partition("/")[0]
        name = missing.removeprefix(f"{group}/")
        known = error.options or RegistrySource("", "registry://").list(group, ObjectType.CONFIG)
        hint = nearest(name, known) if known else ""
        hint += "".join(f" ({broken})" for broken in discover().packages()[1])
        raise ConfigError(f"no such config.{hint}", key=f"{group}={name}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        for pattern, word, text in _REFUSALS:
            if found := re.search(pattern, str(error)):
                raise ConfigError(found.expand(text), key=found.expand(word)) from error
        key = str(error).partition("Could not override '")[2].partition("'")[0]
        section = key.partition(".")[0]
        # Hydra says how to add a section that there is not; nearly always another one was meant.
        is_known = not section or section in SECTIONS
        text = _first_lines(error) if is_known else f"no such section.{nearest(section, SECTIONS)}"
        if section == "experiment":
            text = f"an experiment is added with a plus: {_first_lines(error).rpartition(' ')[2]}"
        elif section.endswith("@experiment"):
            text = "the first line of an experiment's file must be '# @package _global_'."
        raise ConfigError(text, key=key) from error
    except Exception as error:  # what Hydra did not foresee: keys that are numbers, lists for names, endless nesting
        raise ConfigError(f"the config cannot be composed: {plain(str(error))}") from error


_REFUSALS = (
    (r"Could not delete from config\. The value of '(.*)' is (.*) and not", r"~\1", r"it is \2; ~\1 alone removes it."),
    (r"Could not delete(?: from config\.)? '([^']*)'", r"~\1", r"there is no '\1' to remove."),
    (r"An item is already at '(.*)'", r"\1", r"it is set already; leave the plus out: \1=…"),
    (r"Error merging override \+*(.*)\.([^.=]*)=", r"\1.\2", r"it cannot be set alone; give all of \1=…"),
    (r"invalid literal for int\(\) .*'(.*)'", "", r"'\1' is no place in a list; items have numbers, from 0."),
    (r"(\w+) appears more than once", r"\1", r"it is chosen already; leave the plus out: \1=NAME"),
    (r"Multiple values for (\w+)", r"\1", r"it is chosen already; \1=NAME or a file's 'override /\1' changes it."),
)
"""Hydra's refusals: a pattern of the text, the word or key that is meant, and what is said instead."""


def _first_lines(error: Exception) -> str:
    """Return Hydra's text, and the cause it hides, without its hints to look at stack traces."""
    texts = [str(error), *([str(error.__cause__)] if error.__cause__ is not None else [])]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "See https", "reference_type"))]
    return plain(" ".join(dict.fromkeys(kept)))
