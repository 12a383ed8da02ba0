"""Points: the config of each, the hash of all that decides its numbers, and the name of its run folder."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from framework.config.compose import Config, Kept, compose
from framework.keys import flat
from framework.registry.entry_points import OURS, Plugin, discover
from framework.registry.kinds import GROUPS, MAPPINGS
from framework.registry.sections import taken_by
from framework.sweeps.labels import label

UNCOUNTED = ("run.", "distributed.", "debug.", "callbacks.progress.", "callbacks.tensorboard.", "callbacks.views.")
UNCOUNTED += ("strategy.devices", "train.log_every", "train.steps_per_call", "train.resident_mib", "data.root")
"""Beginnings of keys that decide no number: places, devices, logs, and the way in which a run is cut into calls."""

LONGEST = 100
"""Characters of a run folder's name: event files in it have long names of their own."""


class Content(NamedTuple):
    """Facts that decide the numbers of a point.

    Attributes:
      config: leaves of the canonical config.
      components: a digest of each component's package, by config key.
      data: a digest of each split; empty until a run has read the data.
    """

    config: Mapping[str, Any]
    components: Mapping[str, str]
    data: Mapping[str, str] = {}


_KEPT: Kept = {}


class Files:
    """Files of configs, as they were when a sweep first read them."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def changed(self, config: Config) -> list[str]:
        """Return the files of a config that differ from the last look at them."""
        found = []
        for file, _ in config.origins.files.values():
            with file.open("rb") as opened:
                digest = hashlib.blake2b(opened.read()).digest()
            if self._known.setdefault(str(file), digest) != digest:
                self._known[str(file)] = digest
                found.append(str(file))
        return found


@functools.lru_cache(maxsize=64)
def config_of(words: tuple[str, ...], config_dir: str | None) -> Config:
    """Compose the config of a point; the last ones are kept, since a point is looked at before it is trained.

    Files are composed once, for all points that choose the same ones.
    """
    return compose(words, config_dir, _KEPT)


def forget() -> None:
    """Compose the configs of points anew from here on, also from files that have been added."""
    _KEPT.clear()
    config_of.cache_clear()


def content_of(config: Config) -> Content:
    """Read from a config what the numbers of its run follow from. The data are not read."""
    leaves = flat(json.loads(json.dumps(config.values, default=str)))
    counted = {key: value for key, value in leaves.items() if not key.startswith(UNCOUNTED)}
    return Content(counted, _components(config.values))


def hash_of(content: Content) -> str:
    """Hash config and components; the data are compared on their own, since a hash is needed before they are read."""
    text = json.dumps([content.config, content.components], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def differences(old: Content, new: Content) -> list[str]:
    """Name what differs between two contents: "optimizer.learning_rate (0.001 to 0.003)"."""
    found = []
    for name, before, after in zip(Content._fields, old, new, strict=True):
        if name == "data" and not (before and after):
            continue
        for key in sorted({*before, *after}):
            one, other = before.get(key), after.get(key)
            if one != other and name == "config":
                found.append(f"{key} ({json.dumps(one)} to {json.dumps(other)})")
            elif one != other:
                found.append(f"the code of {key}" if name == "components" else f"the data of the split '{key}'")
    return found


def read_content(stored: Mapping[str, Any] | None) -> Content | None:
    """Read a content from the ledger."""
    return None if stored is None else Content(**stored)


def data_digests(splits: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each split from the fingerprints in a run's record."""
    return {
        name: str(each.get("digest") or each.get("first_batch"))
        for name, each in splits.items()
        if isinstance(each, Mapping)
    }


def folder_name(number: int, parameters: Mapping[str, Any]) -> str:
    """Name a run folder after its point: "003-seed=0,learning_rate=0.001"."""
    text = re.sub(r"[^\w.+=,@-]+", "_", label(parameters).replace(" ", ","))
    return f"{number:03}-{text.replace('=_', '=')}"[:LONGEST].rstrip("_,.-")


def _components(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of the package of every component that a config names, by key."""
    kinds = GROUPS | {name: section.kind for name, section in taken_by(values).items()}
    found = {}
    for section, part in values.items():
        if section not in kinds or not isinstance(part, Mapping):
            continue
        tagged = {
            f"{section}.{tag}": {"name": tag, **(each or {})} for tag, each in part.items() if section in MAPPINGS
        }
        for key, each in (tagged or {section: part}).items():
            name = str(each.get("name"))
            plugins = [plugin for plugin in discover().every(kinds[section]) if plugin.answers_to(name)]
            if plugins and not f"{key}.".startswith(UNCOUNTED):
                found[key] = _digest(plugins[0])
    return found


def _digest(plugin: Plugin) -> str:
    module = plugin.target.partition(":")[0]
    text = [plugin.distribution, plugin.version, plugin.target]
    if module.partition(".")[0] != OURS:
        text.append(_sources(module))
    return hashlib.blake2b("\n".join(text).encode(), digest_size=8).hexdigest()


def _origin(module: str) -> Path | None:
    """Return the file of a module; None for a folder that several distributions share, and for what is not there."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


@functools.cache
def _sources(module: str) -> str:
    """Hash the Python files of the package that a module is in; "" for one that is not there as files.

    It is the first package on the way to the module that has an `__init__.py`: several distributions may share those
    before it, and an import of those runs no code.
    """
    names = module.split(".")
    found = (_origin(".".join(names[: end + 1])) for end in range(len(names)))
    origin = next((each for each in found if each is not None), None)
    if origin is None or origin.suffix != ".py":
        return ""
    files: Sequence[Path] = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    parts = [part for path in files for part in (str(path.relative_to(origin.parent)).encode(), path.read_bytes())]
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()
