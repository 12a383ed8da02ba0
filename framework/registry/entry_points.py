"""Entry points to factories, lazily: nothing of a plugin is imported until a run, or a listing, names it."""

from __future__ import annotations

import functools
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import Distribution, EntryPoint, distributions
from itertools import pairwise
from typing import Any, NamedTuple

from framework.errors import ConfigError, PluginError, nearest
from framework.registry.kinds import KINDS

PATIENCE = 8.0  # seconds in some interval of which an import must have worked, for a twentieth of it
INTERVALS = 8  # in that time; to a process that was suspended it counts as one, however long it took
LONGEST = 8  # times as long it may compute, the time in which the process had no turn left out


class Plugin(NamedTuple):
    """One registered component."""

    kind: str  # a key of KINDS
    name: str
    distribution: str
    version: str
    target: str  # what is imported, such as "acme.models:wide"
    fetch: Callable[[], Any]  # imports and returns the factory

    @property
    def owner(self) -> str:
        """Who registered it, for messages: "acme-jax 0.3.0"."""
        return f"{self.distribution} {self.version}"

    @property
    def label(self) -> str:
        """What it is, for messages: "model 'wide' (acme-jax 0.3.0, acme.models:wide)"."""
        return f"{KINDS[self.kind]} '{self.name}' ({self.owner}, {self.target})"

    def answers_to(self, name: str) -> bool:
        """Whether it is meant by its name, or by `distribution:name`."""
        wanted, _, short = name.rpartition(":")
        return self.name == short and (not wanted or normalised(self.distribution) == normalised(wanted))

    def load(self) -> Callable[..., Any]:
        """Import the factory.

        Raises: PluginError if the import fails, whatever it raises, or what it names is not callable.
        """
        try:
            with _impatiently():
                factory = self.fetch()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's import may raise anything, SystemExit too
            raise PluginError(f"{self.label} cannot be imported: {type(error).__name__}: {error}") from error
        if not callable(factory):
            raise PluginError(f"{self.label} is not a factory: expected a callable, found {type(factory).__name__}.")
        return factory


class Registry(NamedTuple):
    """Every entry point of the framework's groups, read once from the metadata of installed distributions."""

    groups: Mapping[str, tuple[EntryPoint, ...]]  # by group name without "framework."
    broken: tuple[PluginError, ...] = ()  # distributions whose entry points cannot be read

    def named(self, kind: str) -> tuple[Plugin, ...]:
        """The components that are registered by name; imports nothing."""
        return tuple(_plugin(kind, entry, entry.name, entry.load) for entry in self.groups.get(kind, ()))

    def catalogued(self, kind: str) -> tuple[list[Plugin], list[PluginError]]:
        """The components that catalogues hold, beside the catalogues that could not be read."""
        found: list[Plugin] = []
        broken: list[PluginError] = []
        own = {(plugin.distribution, plugin.name) for plugin in self.named(kind)}
        for entry in self.groups.get(f"{kind}.catalogue", ()):
            catalogue = _plugin(kind, entry, f"{entry.name} catalogue", entry.load)
            try:
                factories = _contents(catalogue)
            except PluginError as error:
                broken.append(error)
                continue
            for name, factory in factories.items():
                if (catalogue.distribution, name) not in own:
                    found.append(_plugin(kind, entry, name, lambda factory=factory: factory))
        return found, broken

    def packages(self) -> tuple[list[tuple[str, str]], list[PluginError]]:
        """Owner and name of every package of configs, ours first, beside the packages that cannot be imported."""
        found: list[tuple[str, str]] = []
        broken: list[PluginError] = []
        for entry in sorted(
            self.groups.get("conf", ()), key=lambda entry: (_owner(entry) != "framework", _owner(entry))
        ):
            try:
                entry.load()
                found.append((_owner(entry), entry.value))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}"
                broken.append(PluginError(f"configs '{entry.value}' of {_owner(entry)} cannot be imported: {reason}"))
        return found, broken

    def every(self, kind: str) -> list[Plugin]:
        """All components of a kind, sorted by name."""
        return sorted([*self.named(kind), *self.catalogued(kind)[0]], key=lambda plugin: (plugin.name, plugin.owner))

    def find(self, kind: str, name: str, key: str) -> Plugin:
        """Look a component up by its name, or by `distribution:name` where two distributions claim the name.

        Args:
          kind: a key of `KINDS`.
          name: what the config says.
          key: the config key that says it, for messages.

        Raises:
          ConfigError: nothing has this name, or more than one distribution claims it.
          PluginError: one distribution claims it twice.
        """
        catalogued, broken = self.catalogued(kind)
        known = [*self.named(kind), *catalogued]
        found = [plugin for plugin in known if plugin.answers_to(name)]
        if len(found) == 1:
            return found[0]
        if not found:
            names = [f"{p.distribution}:{p.name}" if ":" in name else p.name for p in known]
            also = "".join(f" ({error})" for error in (*broken, *self.broken))
            raise ConfigError(f"{key}: no {KINDS[kind]} is named '{name}'.{nearest(name, names)}{also}")
        if len({normalised(plugin.distribution) for plugin in found}) == 1:
            targets = ", ".join(plugin.target for plugin in found)
            raise PluginError(f"{key}: {found[0].owner} registers the {KINDS[kind]} '{name}' twice ({targets}).")
        choices = " or ".join(f"'{plugin.distribution}:{plugin.name}'" for plugin in found)
        raise ConfigError(f"{key}: {len(found)} distributions register the {KINDS[kind]} '{name}'; choose {choices}.")


def discover() -> Registry:
    """Read the installed distributions' entry points; some milliseconds, and nothing is imported.

    A distribution that stands on the path twice counts once: the first one, as for imports.
    """
    groups: dict[str, list[EntryPoint]] = {}
    broken: list[PluginError] = []
    seen = set()
    for distribution in distributions():
        try:
            entries = _entries(distribution)
        except Exception as error:  # damaged metadata raise whatever the parser meets
            where = getattr(distribution, "_path", distribution.locate_file(""))
            broken.append(PluginError(f"the metadata in {where} cannot be read: {type(error).__name__}: {error}"))
            continue
        if not entries or (name := normalised(distribution.name)) in seen:
            continue
        seen.add(name)
        for entry in entries:
            groups.setdefault(entry.group.removeprefix("framework."), []).append(entry)
    return Registry({group: tuple(entries) for group, entries in groups.items()}, tuple(broken))


def normalised(distribution: str) -> str:
    """A distribution's name as pip compares it: case and runs of -_. do not count (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@contextmanager
def _impatiently() -> Iterator[None]:
    """Interrupt an import that waits in vain; one that computes may take `LONGEST` times as long.

    Only the main thread can be interrupted, and only where nobody else has set its alarm.

    Raises: TimeoutError.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    interval = PATIENCE / INTERVALS
    times = [time.process_time()]

    def look(*_: Any) -> None:
        times.append(time.process_time())
        worked = [after - before > interval / 20 for before, after in pairwise(times[-1 - INTERVALS :])]
        if (len(worked) == INTERVALS and not any(worked)) or times[-1] - times[0] > LONGEST * PATIENCE:
            raise TimeoutError(f"it did not end within {interval * (len(times) - 1):g} s")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _entries(distribution: Distribution) -> list[EntryPoint]:
    """The framework's entry points of a distribution that has a name and a version."""
    entries = [entry for entry in distribution.entry_points if entry.group.startswith("framework.")]
    if entries and not (distribution.name and distribution.version):
        raise ValueError("METADATA names no distribution or version")
    return entries


def _contents(catalogue: Plugin) -> dict[str, Any]:
    """What a catalogue holds.

    Raises: PluginError if it cannot be imported, raises, or returns something else than factories by name.
    """
    read = catalogue.load()
    try:
        return {str(name): factory for name, factory in read().items()}
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(f"{catalogue.label} cannot be read: {type(error).__name__}: {error}") from error


def _plugin(kind: str, entry: EntryPoint, name: str, fetch: Callable[[], Any]) -> Plugin:
    return Plugin(kind, name, *_identity(entry.dist), entry.value, fetch)


def _owner(entry: EntryPoint) -> str:
    return _identity(entry.dist)[0]


@functools.lru_cache(maxsize=64)  # reading them parses a whole METADATA file
def _identity(distribution: Distribution | None) -> tuple[str, str]:
    return (distribution.name, distribution.version) if distribution else ("?", "?")
