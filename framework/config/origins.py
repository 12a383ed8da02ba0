"""Origins of config keys: a file and line, or the command line. They are looked up only when an error names the key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from framework.config.overrides import as_typed
from framework.config.safe_load import Readable, compose_yaml, shown
from framework.errors import ConfigError, FrameworkError

COMMAND_LINE = "(set on the command line)"

Path_ = tuple[str, ...]
"""The parts of a key: ("model", "layers", "0", "Dense")."""

Match = tuple[int, yaml.Node | None]
"""Return the number of a key's parts that are set, and the node that sets the last."""


class ReadFile(NamedTuple):
    """A file of configs that was read.

    Attributes:
      file: its place.
      package: the key below which its content is put.
      stamp: its time and size just before it was read; None for one that lies in no folder.
    """

    file: Readable
    package: str
    stamp: tuple[int, int] | None

    @classmethod
    def begun(cls, file: Readable, package: str) -> ReadFile:
        """Note a file that is about to be read."""
        return cls(file, package, _stamp(file))

    @property
    def is_fresh(self) -> bool:
        """Tell whether the file is as it was read."""
        return self.stamp == _stamp(self.file)


Read = dict[str, ReadFile]
"""Files that were read, by the path that Hydra gives them."""


def _stamp(file: Readable) -> tuple[int, int] | None:
    if isinstance(file, Path):
        with suppress(OSError):  # one that is gone
            facts = file.stat()
            return facts.st_mtime_ns, facts.st_size
    return None


class Origins(NamedTuple):
    """The files and the overrides of one config.

    Attributes:
      files: with the key below which their content is put, by Hydra's paths such as "experiment/mnist". The first is
        the base of all; of the others, Hydra reads the one that wins first.
      words: overrides, as Hydra reads them.
    """

    files: Read
    words: tuple[str, ...]

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Add to an error that has a key where the config got that key from."""
        try:
            yield
        except FrameworkError as error:
            if not error.origin:
                with suppress(Exception):  # the error itself counts more than its origin
                    key = f"{error.key}.{error.option}" if error.option else error.key
                    # An error of another kind may hold a word in the name of a folder, without being about it.
                    quotes = not key and isinstance(error, ConfigError)
                    error.origin = self._quoted(str(error)) if quotes else self.of(key)
            raise

    def of(self, key: str) -> str:
        """Say "(set in conf/experiment/mine.yaml:7)" of a key, or of a choice such as "model=mlp"; "" of an unknown."""
        if key in map(as_typed, self.words):
            return COMMAND_LINE
        key, _, choice = key.lstrip("~").partition("=")
        parts, best, origin = _parts(key.replace("/", ".")), 0, ""
        files = list(self.files.values())
        for file, package, _ in (*files[:1], *reversed(files[1:])):
            with suppress(FrameworkError):  # a file that cannot be read sets nothing
                depth, node = _match(_parts(package), compose_yaml(file), parts, choice)
                if 0 < depth >= best:
                    best, origin = depth, f"(set in {shown(file)}:{node.start_mark.line + 1 if node else 1})"
        for word in self.words:
            with suppress(Exception):  # a word that cannot be read sets nothing
                override = OverridesParser.create().parse_override(word)
                value = None if override.is_sweep_override() or override.is_delete() else override.value()
                node = yaml.representer.SafeRepresenter().represent_data(value)
                depth, _ = _match(_parts(override.key_or_group.replace("/", ".")), node, parts, choice)
                if 0 < depth >= best:
                    best, origin = depth, COMMAND_LINE
        return origin

    def _quoted(self, text: str) -> str:
        """Find what Hydra quotes in a text of its own: a file by its path, or a word."""
        file = next((read.file for path, read in self.files.items() if f"'{path}'" in text), None)
        if file is not None:
            return f"(set in {shown(file)}:1)"
        return COMMAND_LINE if any(word.lstrip("+~") in text for word in self.words) else ""


def _parts(key: str) -> Path_:
    return tuple(part for part in re.split(r"[.\[\]]+", key) if part and part != "_global_")


def _match(package: Path_, node: yaml.Node | None, parts: Path_, choice: str) -> Match:
    """Match a key with a file or an override: with its content, its section `extend`, and its list of defaults."""
    depth, extending = _walk(package, node, ("extend", *parts))
    matches = [_walk(package, node, parts), (depth - 1, extending)]
    for group, names, at in _choices(node):
        if group == "/".join(parts):
            matches.append((len(parts) + (choice in names), at))
    return max(matches, key=lambda match: match[0])


def _walk(package: Path_, node: yaml.Node | None, parts: Path_) -> Match:
    common = min(len(package), len(parts))
    if package[:common] != parts[:common]:
        return 0, None
    depth, at = common, node
    for part in parts[common:]:
        below = _child(node, part)
        if below is None:
            break
        (at, node), depth = below, depth + 1
    return depth, at


def _child(node: Any, part: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Find the place and the value of an entry: by key, by index, or by name in a list that extends another."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode):
        if part.isdecimal():
            return (node.value[int(part)],) * 2 if int(part) < len(node.value) else None
        for item in node.value:
            if item.value == part:
                return item, item
            if inner := _child(item, part):
                return inner
    return None


def _choices(node: yaml.Node | None) -> Iterator[tuple[str, list[str], yaml.Node]]:
    """List the entries of a defaults list: the group, the names that are chosen, and the place."""
    defaults = _child(node, "defaults")
    for entry in defaults[1].value if defaults and isinstance(defaults[1], yaml.SequenceNode) else []:
        for key, value in entry.value if isinstance(entry, yaml.MappingNode) else []:
            names = [item.value for item in value.value] if isinstance(value, yaml.SequenceNode) else [value.value]
            yield key.value.split()[-1].strip("/").partition("@")[0], names, key
