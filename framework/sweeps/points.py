"""Points: the config of each, the hash of all that decides its numbers, and the name of its run folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from framework.config.compose import Config, Kept, compose
from framework.config.origins import ReadFile
from framework.config.safe_load import load_json
from framework.keys import flat
from framework.registry.entry_points import OURS, Plugin, discover
from framework.registry.kinds import GROUPS, KINDS, MAPPINGS
from framework.registry.sections import taken_by
from framework.sweeps.folder import RUNS
from framework.sweeps.labels import label

UNCOUNTED = ("run.", "distributed.", "callbacks.progress.", "callbacks.tensorboard.", "callbacks.views.")
UNCOUNTED += ("strategy.devices", "train.log_every", "train.steps_per_call", "train.resident_mib", "data.root")
"""Beginnings of keys that decide no number: places, devices, logs, and the way in which a run is cut into calls."""

ALIKE = ("debug.",)
"""Beginnings of keys that decide no number where they are null or false; presets such as `debug.limit` do."""

WATCHES = tuple(
    f"debug.{name}" for name in ("nans", "infs", "leaks", "keys", "transfers", "compiles", "checks", "profile")
)
"""Switches that look for faults, and change no number."""

UNCOUNTED += WATCHES

NAMED = "what "
"""Beginning of what stands beside components for a run or a file that a config names: "what init_from names"."""

READ_ELSEWHERE = ("run", "data", "distributed", "callbacks")
"""Sections whose texts name no parameters to begin with: data have digests of their own."""

LONGEST = 100
"""Characters of a run folder's name: event files in it have long names of their own."""


class Content(NamedTuple):
    """Facts that decide the numbers of a point.

    Attributes:
      config: leaves of the canonical config.
      components: a digest of each component's package, by config key, and of the runs and files that are begun with.
      data: a digest of each split; empty until a run has read the data.
    """

    config: Mapping[str, Any]
    components: Mapping[str, str]
    data: Mapping[str, str] = {}


_KEPT: Kept = {}


class Files:
    """Files of configs, as they were when a sweep first read them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ReadFile, bytes]] = {}

    def changed(self, config: Config) -> list[str]:
        """Return the files of a config that differ from the last look at them; those of another time are read."""
        found = []
        for each in config.origins.files.values():
            name = str(each.file)
            known = self._known.get(name)
            if known is not None and known[0].stamp == each.stamp:
                continue
            with each.file.open("rb") as opened:
                digest = hashlib.blake2b(opened.read()).digest()
            if known is not None and known[1] != digest:
                found.append(name)
            self._known[name] = each, digest
        return found


def present_config(words: tuple[str, ...], config_dir: str | None) -> Config:
    """Compose the config of a point from the files as they are; of those that have not changed, once for all points."""
    return compose(words, config_dir, _KEPT)


@functools.lru_cache(maxsize=64)
def config_of(words: tuple[str, ...], config_dir: str | None) -> Config:
    """Compose the config of a point; the last ones are kept, since a point is looked at before it is trained."""
    return present_config(words, config_dir)


def forget() -> None:
    """Compose the configs of points anew from here on, also from files that have been added."""
    _KEPT.clear()
    config_of.cache_clear()


def content_of(config: Config) -> Content:
    """Read from a config what the numbers of its run follow from. The data are not read."""
    leaves = flat(json.loads(json.dumps(config.values, default=str)))
    counted = {key: value for key, value in leaves.items() if not key.startswith(UNCOUNTED)}
    counted = {key: value for key, value in counted.items() if value or not key.startswith(ALIKE)}
    return Content(counted, _components(config.values) | _origins(leaves))


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
                text = key if key.startswith(NAMED) else f"the code of {key}"
                found.append(text if name == "components" else f"the data of the split '{key}'")
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


def next_folder(sweep: Path, number: int, parameters: Mapping[str, Any]) -> str:
    """Name a further run folder of a point, relative to that of its sweep: "runs/003-seed=0~2"."""
    name, version = folder_name(number, parameters), 2
    while (sweep / RUNS / f"{name}~{version}").exists():
        version += 1
    return f"{RUNS}/{name}~{version}"


def _components(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of the package of every component that a config names: by key, and of nested ones by name.

    A layer, a transform or a wrapped optimizer stands deep in the options of another. So each word there that is the
    name of somebody's plugin counts, even if it means something else: rather a point too many than a wrong one.
    """
    kinds = GROUPS | {name: section.kind for name, section in taken_by(values).items()}
    found, counted = {}, list[Plugin]()
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
                counted.append(plugins[0])
    return found | _of_others(values, counted)


def _of_others(values: Mapping[str, Any], counted: Sequence[Plugin]) -> dict[str, str]:
    """Return a digest for each word of a config that names a plugin of another distribution, but for some plugins."""
    words = {word.rpartition(":")[2] for word in _words(values)}
    plugins = [plugin for kind in KINDS for plugin in discover().named(kind) if plugin.name in words]
    theirs = [plugin for plugin in plugins if plugin.distribution != OURS and plugin not in counted]
    return {f"{plugin.name} of {plugin.distribution}": _digest(plugin) for plugin in theirs}


def _words(value: Any) -> Iterator[str]:
    """Yield all keys and texts in plain values."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key)
            yield from _words(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _words(each)
    elif isinstance(value, str):
        yield value


def _origins(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of each run, exported model or file of parameters that a config names, such as in `init_from`."""
    found = {}
    for key, value in leaves.items():
        if isinstance(value, str) and key.partition(".")[0] not in READ_ELSEWHERE:
            with contextlib.suppress(OSError, ValueError):  # what is not there is told by the run
                if digest := _digest_of_source(Path(value.partition("@")[0]).expanduser()):
                    found[f"{NAMED}{key} names"] = digest
    return found


def _digest_of_source(path: Path) -> str:
    if (path / "run.json").is_file():
        record = load_json(path / "run.json")
        return f"{record['id']} at step {record['step']}"
    if not path.exists():
        return ""
    from framework.trained.init_from import FILES

    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.suffix in FILES else []
    facts = [(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return " ".join(itertools.starmap(_digest_of_file, facts))


@functools.lru_cache(maxsize=16)
def _digest_of_file(path: Path, changed: int, size: int) -> str:
    from framework.trained.exported import digest

    return digest(path)


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
