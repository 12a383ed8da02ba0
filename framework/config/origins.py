"""Where a config got a key from: the file and line, or the command line. Looked up only when an error names the key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from framework.config import policy, search_path
from framework.config.overrides import rewrite
from framework.config.safe_load import Readable, compose_yaml, shown
from framework.errors import FrameworkError

COMMAND_LINE = "the command line"

Path_ = tuple[str, ...]
"""The parts of a key: ("model", "layers", "0", "Dense")."""

_PLACE = re.compile(r"\.yaml:\d+")
_CHOICE = re.compile(r"\+?(?P<key>[\w/]+)=(?P<choice>\S*?): no such config")
_KEY = re.compile(r"(?P<key>[A-Za-z_][\w-]*(?:[.:\[][^\s:.=]+)*?)(?:=\S*)?: ")


class Piece(NamedTuple):
    """What a config is composed of: a file, or an override."""

    place: str  # a file's name, or COMMAND_LINE
    package: Path_  # the key below which its content is put
    node: yaml.Node | None
    name: str = ""  # Hydra's path of the file, such as "experiment/mnist"
    word: str = ""  # the override as it was given


@contextmanager
def told(pieces: Callable[[], Sequence[Piece]]) -> Iterator[None]:
    """Add to an error that begins with a key where the config got that key from.

    Args:
      pieces: gives what was composed, in the order in which the later one wins; called only if there is an error.
    """
    try:
        yield
    except FrameworkError as error:
        if not error.origin and not _PLACE.search(str(error)):
            with suppress(Exception):  # the error to be told is the one there is
                error.origin = find(str(error), pieces())
                error.args = (f"{error.args[0]} {error.origin}".rstrip(), *error.args[1:])
        raise


def find(message: str, pieces: Sequence[Piece]) -> str:
    """Say "(set in conf/experiment/mine.yaml:7)", or nothing if the message names no key that a piece sets."""
    quoted = re.findall(r"'([\w-]+(?:/[\w-]+)+)'", message)
    named = [piece for piece in pieces if piece.name in quoted]
    text = re.sub(r"^In '[^']*': ", "", message)
    key = _CHOICE.match(text) or _KEY.match(text)
    if key is not None:
        option = re.match(r"(\w+) is ", text[key.end() :])  # as factories say it: "data: batch_size is 0"
        parts = _parts(key["key"].replace("/", ".") + (f".{option[1]}" if option else ""))
        place = _nearest(named or pieces, parts, key.groupdict().get("choice", "" if named else None))
        if place:
            return place
    if named:
        return _said(named[0], None)
    return _said(None, None) if any(piece.word and piece.word in message for piece in pieces) else ""


def _nearest(pieces: Sequence[Piece], parts: Path_, choice: str | None) -> str:
    """The last of the pieces that set most of a key's parts."""
    best: tuple[int, Piece | None, yaml.Node | None] = (0, None, None)
    for piece in pieces:
        depth, node = _match(piece, parts, choice)
        if depth and depth >= best[0]:
            best = depth, piece, node
    return _said(best[1], best[2]) if best[1] is not None else ""


def _said(piece: Piece | None, node: yaml.Node | None) -> str:
    if piece is None or piece.place == COMMAND_LINE:
        return f"(set on {COMMAND_LINE})"
    return f"(set in {piece.place}:{node.start_mark.line + 1 if node is not None else 1})"


def composed(overrides: Sequence[str], config_dir: str | Path | None = None) -> list[Piece]:
    """The pieces of a composed config: its files in the order of Hydra's defaults list, then the overrides."""
    words = rewrite(overrides)
    folder = [] if config_dir is None else [f"hydra.searchpath=['file://{Path(config_dir).expanduser().resolve()}']"]
    files: list[tuple[str, str]] = []
    read: search_path.Read = {}
    with (
        suppress(Exception),
        search_path.session() as reading,
        initialize_config_module("framework_conf", version_base="1.3"),
    ):
        read = reading
        policy.check_words(words)
        loader: ConfigLoader = GlobalHydra.instance().config_loader()
        defaults = loader.compute_defaults_list("config", [*words, *folder], RunMode.MULTIRUN).defaults
        files = [(each.config_path or "", each.package or "") for each in defaults]
    # Where the list itself is what is wrong, the files that were read until then are all there is to say.
    files = files or [(path, package) for path, (_, package) in read.items()]
    places = [(path, package, read[path][0]) for path, package in files if path in read]
    found = [Piece(shown(file), _parts(package), _node(file), path) for path, package, file in places]
    return [*found, *_overrides(words)]


def recorded(run_folder: str | Path, overrides: Sequence[str]) -> list[Piece]:
    """The pieces of the config of a run folder."""
    path = Path(run_folder) / "config.yaml"
    return [Piece(shown(path), (), _node(path), "config"), *_overrides(rewrite(overrides))]


def _overrides(words: Sequence[str]) -> list[Piece]:
    pieces = []
    for word in words:
        pieces.append(Piece(COMMAND_LINE, ("",), None, word=word.lstrip("+~")))
        with suppress(Exception):  # where it cannot be read, its text is what a message holds
            override = OverridesParser.create().parse_override(word)
            value = None if override.is_sweep_override() or override.is_delete() else override.value()
            node = yaml.representer.SafeRepresenter().represent_data(value)
            pieces.append(Piece(COMMAND_LINE, _parts(override.key_or_group.replace("/", ".")), node))
    return pieces


def _node(file: Readable) -> yaml.Node | None:
    with suppress(FrameworkError):
        return compose_yaml(file)
    return None


def _parts(key: str) -> Path_:
    return tuple(part for part in re.split(r"[.\[\]]+", key) if part and part != "_global_")


def _match(piece: Piece, parts: Path_, choice: str | None) -> tuple[int, yaml.Node | None]:
    """How many parts of a key a piece sets, by itself or in its section `extend`, and the node that sets the last."""
    entry = _choice(piece.node, "/".join(parts), choice)
    if entry is not None:
        return len(parts) + 1, entry
    own, extending = _walk(piece, parts), _walk(piece, ("extend", *parts))
    return own if own[0] >= extending[0] - 1 else (extending[0] - 1, extending[1])


def _walk(piece: Piece, parts: Path_) -> tuple[int, yaml.Node | None]:
    common = min(len(piece.package), len(parts))
    if piece.package[:common] != parts[:common]:
        return 0, None
    depth, node, at = common, piece.node, piece.node
    for part in parts[common:]:
        below = _child(node, part)
        if below is None:
            break
        (at, node), depth = below, depth + 1
    return depth, at


def _child(node: Any, part: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The place and the value of an entry: by key, by index, or by name in a list that extends another."""
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


def _choice(node: yaml.Node | None, group: str, name: str | None) -> yaml.Node | None:
    """The entry of a defaults list that chooses a name for a group; any name if it is ""."""
    if name is None:
        return None
    defaults = _child(node, "defaults")
    for entry in defaults[1].value if defaults and isinstance(defaults[1], yaml.SequenceNode) else []:
        for key, value in entry.value if isinstance(entry, yaml.MappingNode) else []:
            names = [item.value for item in value.value] if isinstance(value, yaml.SequenceNode) else [value.value]
            if key.value.split()[-1].strip("/").partition("@")[0] == group and (not name or name in names):
                return key
    return None
