"""YAML and JSON that may come from anybody: bounded in size, depth and expansion before anything is made of them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Protocol

import yaml
from omegaconf._utils import get_yaml_loader

from framework.errors import ConfigError

MAX_BYTES = 1 << 20  # of a YAML file; those that people write have a few thousand
MAX_NODES = 5_000  # keys and values, aliases counted as often as they would be expanded
MAX_DEPTH = 64
MAX_SCALAR = 10_000  # characters; a number of more takes quadratic time
MAX_INTERPOLATIONS = 500  # each of which OmegaConf parses for a millisecond
MAX_JSON = 1 << 26  # bytes; the manifest of a checkpoint has some 150 for each array

TAGS = ("str", "int", "float", "bool", "null", "seq", "map")
"""The types that `!!` may ask for: those of JSON. Others make dates, sets or paths."""


class Readable(Protocol):
    """A file on a disk or in a package."""

    def open(self, mode: Any = "r") -> Any: ...


class LimitedLoader(get_yaml_loader()):
    """OmegaConf's loader of plain data, which gives up once a document is deeper or larger than a config can be."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0
        self.sizes: dict[str, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """One node and all below it; called for each node, before Python objects are made."""
        event = self.peek_event()
        before, self.depth = self.nodes, self.depth + 1
        self.nodes += 1
        if isinstance(event, yaml.AliasEvent):
            self.nodes += self.sizes.get(event.anchor, 0 if event.anchor not in self.anchors else MAX_NODES)
        self._check(event)
        node = super().compose_node(parent, index)
        if not isinstance(event, yaml.AliasEvent) and event.anchor:
            self.sizes[event.anchor] = self.nodes - before
        self.depth -= 1
        assert node is not None
        return node

    def construct_yaml_int(self, node: Any) -> int:
        """An integer of 64 bits; one of thousands of digits, as `1:1:1:…` makes, can be neither printed nor used."""
        number = super().construct_yaml_int(node)
        if abs(number) >= 1 << 63:
            raise yaml.MarkedYAMLError(problem="found an integer beyond 64 bits", problem_mark=node.start_mark)
        return number

    def _check(self, event: Any) -> None:
        problem = ""
        if self.nodes > MAX_NODES:
            problem = f"found more than {MAX_NODES} values, with aliases expanded; a config has fewer"
        elif self.depth > MAX_DEPTH:
            problem = f"found more than {MAX_DEPTH} levels of nesting; a config has fewer"
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            problem = f"found a value of {len(event.value)} characters, expected at most {MAX_SCALAR}"
        elif (tag := getattr(event, "tag", None)) and tag.removeprefix("tag:yaml.org,2002:") not in (*TAGS, "!"):
            problem = f"found the type '{tag}'; a config holds plain values only"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


LimitedLoader.add_constructor("tag:yaml.org,2002:int", LimitedLoader.construct_yaml_int)


def load_yaml(file: Readable) -> tuple[Any, str]:
    """The content of a YAML file as plain data, and its text.

    Raises: ConfigError naming file and line if it cannot be read, is no YAML, or is larger or deeper than a config.
    """
    text = _read(file)
    if text.count("${") > MAX_INTERPOLATIONS:
        raise ConfigError(f"{shown(file)}: found more than {MAX_INTERPOLATIONS} interpolations; a config has fewer.")
    return _parse(file, text, LimitedLoader.get_single_data), text


def compose_yaml(file: Readable) -> yaml.Node | None:
    """The content of a YAML file as nodes that know their lines; None if it is empty.

    Raises: ConfigError, as `load_yaml`.
    """
    return _parse(file, _read(file), LimitedLoader.get_single_node)


def load_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises: OSError, also if it is no regular file; ValueError if it is no JSON, larger than `MAX_JSON`, or nested
      beyond reason.
    """
    _check_regular(path)
    size = path.stat().st_size
    if size > MAX_JSON:
        raise ValueError(f"{size} bytes are more than the {MAX_JSON} that are read")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shown(file: Any) -> str:
    """A file's name for messages: short where it lies below the working folder."""
    name = str(file)
    relative = os.path.relpath(name) if os.path.isabs(name) else name  # noqa: PTH117
    return name if relative.startswith("..") else relative


def _check_regular(path: Path) -> None:
    """Check that reading a file cannot wait for somebody who writes into it.

    Raises: OSError for a pipe, a device or a folder, and if there is none.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is no regular file")


def _read(file: Readable) -> str:
    try:
        if isinstance(file, Path):
            _check_regular(file)
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{shown(file)}: found more than {MAX_BYTES} bytes; a config has fewer.")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{shown(file)} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{shown(file)}:{line}: found a byte that is not UTF-8.") from error


def _parse(file: Readable, text: str, get: Any) -> Any:
    loader: Any = None
    try:
        loader = LimitedLoader(text)
        return get(loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{shown(file)}:{mark.line + 1 if mark else 1}: {reason}.") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{shown(file)}:{line}: found a character that YAML does not allow.") from error
    except (ValueError, OverflowError, TypeError, RecursionError) as error:  # a number of thousands of digits
        raise ConfigError(f"{shown(file)}: {error}.") from error
    finally:
        if loader is not None:
            loader.dispose()
