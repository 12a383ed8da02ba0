"""Entry points of installed distributions, and the factories they name, imported only when a run or a listing asks."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, NamedTuple

from framework.errors import ConfigError, PluginError, blaming, nearest, told
from framework.numerics import SWITCHES
from framework.registry.kinds import KINDS, PREFIX

LOGGER = logging.getLogger("framework")

OURS = "framework"
"""The distribution of the core."""

Found = tuple[list["Plugin"], list[PluginError]]
"""The components of a kind, beside the catalogues that could not be read."""


class Plugin(NamedTuple):
    """One registered component."""

    kind: str  # a key of KINDS, or another group's name
    name: str
    distribution: str
    version: str
    target: str  # of the import, such as "acme.models:wide"
    fetch: Callable[[], Any]  # imports and returns the factory

    @property
    def owner(self) -> str:
        """The distribution, for messages: "acme-jax 0.3.0"."""
        return f"{self.distribution} {self.version}"

    @property
    def title(self) -> str:
        """The component, for messages: "model 'wide' (acme-jax 0.3.0)"."""
        return f"{KINDS[self.kind].noun} '{self.name}' ({self.owner})"

    @property
    def label(self) -> str:
        """The component and its target: "model 'wide' (acme-jax 0.3.0, acme.models:wide)"."""
        return f"{self.title[:-1]}, {self.target})"

    def answers_to(self, name: str) -> bool:
        """Compare with a name, or with `distribution:name`."""
        wanted, _, short = name.rpartition(":")
        return self.name == short and (not wanted or normalised(self.distribution) == normalised(wanted))

    def load(self, key: str = "") -> Callable[..., Any]:
        """Import the factory.

        Args:
          key: of the config that names the component, for errors.

        Raises: PluginError if the import fails, whatever it raises, or the target is not callable.
        """
        if not EntryPoint.pattern.match(self.target):
            text = f"{self.label} cannot be imported: expected a target such as package.module:factory."
            raise PluginError(text, key=key)
        before = _numerics()
        with blaming(f"{self.label} cannot be imported", key):
            factory = self.fetch()
        for name, value in _numerics().items():
            if before.get(name, value) != value:
                LOGGER.warning(f"the import of {self.label} set {name} to {value}, for all runs of this process")
        if not callable(factory):
            text = f"{self.label} is not a factory: expected a callable, found {type(factory).__name__}."
            raise PluginError(text, key=key)
        return factory


@dataclass(frozen=True, eq=False)
class Registry:
    """The framework's entry points, as the metadata of installed distributions give them.

    Attributes:
      groups: plugins by the name of their group, without the prefix "framework.".
      broken: distributions whose entry points cannot be read.
    """

    groups: Mapping[str, Sequence[Plugin]]
    broken: Sequence[PluginError] = ()
    _catalogued: dict[str, Found] = field(default_factory=dict)

    def named(self, kind: str) -> Sequence[Plugin]:
        """Return the components that are registered by name; imports nothing."""
        return self.groups.get(kind, ())

    def catalogued(self, kind: str) -> Found:
        """Return the components that catalogues hold, beside the broken catalogues; each is read once."""
        if kind not in self._catalogued:
            found, broken = self._catalogued[kind] = [], []
            own = {(plugin.distribution, plugin.name) for plugin in self.named(kind)}
            for entry in self.groups.get(f"{kind}.catalogue", ()):
                catalogue = entry._replace(kind=kind, name=f"{entry.name} catalogue")
                try:
                    read = catalogue.load()
                    with blaming(f"{catalogue.label} cannot be read"):
                        factories = {str(name): factory for name, factory in read().items()}
                except PluginError as error:
                    broken.append(error)
                    continue
                each = [catalogue._replace(name=name, fetch=lambda f=factory: f) for name, factory in factories.items()]
                found += [plugin for plugin in each if (plugin.distribution, plugin.name) not in own]
        return self._catalogued[kind]

    def packages(self) -> tuple[list[tuple[str, str]], list[PluginError]]:
        """Return owner and name of every package of configs, ours first, beside those that cannot be read."""
        found: list[tuple[str, str]] = []
        broken: list[PluginError] = []
        for package in sorted(self.named("conf"), key=lambda each: (each.distribution != OURS, each[2])):
            try:
                title = f"configs '{package.target}' of {package.distribution}"
                with blaming(f"{title} cannot be imported"):
                    package.fetch()
                with blaming(f"{title} are no package with an __init__.py"):
                    resources.files(package.target)
                found.append((package.distribution, package.target))
            except PluginError as error:
                broken.append(error)
        return found, broken

    def every(self, kind: str) -> list[Plugin]:
        """Return all components of a kind, sorted by name."""
        return sorted([*self.named(kind), *self.catalogued(kind)[0]], key=lambda plugin: (plugin.name, plugin.owner))

    def has(self, kind: str, name: str) -> bool:
        """Tell whether a component of a kind answers to a name; catalogues are read only where they are needed."""
        named = any(plugin.answers_to(name) for plugin in self.named(kind))
        return named or any(plugin.answers_to(name) for plugin in self.catalogued(kind)[0])

    def find(self, kind: str, name: str, key: str) -> Plugin:
        """Look a component up by its name, or by `distribution:name` where two distributions claim the name.

        Args:
          kind: a key of `KINDS`.
          name: as the config gives it.
          key: the config key that gives it, for messages.

        Raises:
          ConfigError: nothing has this name, or more than one distribution claims it.
          PluginError: one distribution claims it twice.
        """
        noun, known = KINDS[kind].noun, self.every(kind)
        found = [plugin for plugin in known if plugin.answers_to(name)]
        if len(own := [plugin for plugin in found if plugin.distribution == OURS]) == 1:
            found = own  # a package that claims a name of ours is asked for by its own, such as "acme:jit"
        if len(found) == 1:
            return found[0]
        if not found:
            names = [f"{p.distribution}:{p.name}" if ":" in name else p.name for p in known]
            also = "".join(f" ({error})" for error in (*self.catalogued(kind)[1], *self.broken))
            raise ConfigError(f"no {noun} is named '{name}'.{nearest(name, names)}{also}", key=key)
        if len({normalised(plugin.distribution) for plugin in found}) == 1:
            targets = ", ".join(plugin.target for plugin in found)
            raise PluginError(f"{found[0].owner} registers the {noun} '{name}' twice ({targets}).", key=key)
        choices = " or ".join(f"'{plugin.distribution}:{plugin.name}'" for plugin in found)
        raise ConfigError(f"{len(found)} distributions register the {noun} '{name}'; choose {choices}.", key=key)


def discover() -> Registry:
    """Read the installed distributions' entry points; some milliseconds at first, and nothing is imported.

    A distribution that stands on the path twice counts once: the first one, as for imports. The registry is kept until
    a folder of the path changes.
    """
    return _discover(tuple((folder, Path(folder).exists() and Path(folder).stat().st_mtime_ns) for folder in sys.path))


@functools.lru_cache(maxsize=1)
def _discover(_: tuple[Any, ...]) -> Registry:
    groups: dict[str, list[Plugin]] = {}
    broken: list[PluginError] = []
    seen = set()
    for distribution in distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group.startswith(PREFIX)]
            if not entries:
                continue
            name, version = distribution.name, distribution.version  # each parses METADATA
            if not (name and version):
                raise ValueError("METADATA names no distribution or version")
        except Exception as error:  # damaged metadata raise whatever the parser meets
            where = getattr(distribution, "_path", distribution.locate_file(""))
            broken.append(PluginError(f"the metadata in {where} cannot be read: {told(error)}"))
            continue
        if normalised(name) not in seen:
            seen.add(normalised(name))
            for entry in entries:
                group = entry.group.removeprefix(PREFIX)
                groups.setdefault(group, []).append(Plugin(group, entry.name, name, version, entry.value, entry.load))
    return Registry(groups, broken)


def normalised(distribution: str) -> str:
    """Spell a distribution's name as pip compares it: case and runs of -_. do not count (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _numerics() -> dict[str, Any]:
    """Return JAX's settings that decide what numbers a run computes; nothing before JAX is imported."""
    config = getattr(sys.modules.get("jax"), "config", None)
    return {} if config is None else {name: getattr(config, name, None) for name in SWITCHES}
