"""The dimensions of a sweep, from the words of a command line and the section `sweep`, and points as words again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, QuotedString

from framework.config import search_path
from framework.config import words as typed
from framework.config.origins import Origins
from framework.config.overrides import quoted, rewrite
from framework.contracts.search import Choice, Interval, Space
from framework.errors import ConfigError, nearest
from framework.registry.kinds import OF_SWEEPS
from framework.sweeps.settings import SETTINGS

ZIP = "zip"
"""Key of the section `sweep` whose lists are read side by side."""


class Words(NamedTuple):
    """A command line, sorted.

    Attributes:
      fixed: overrides that every point has, as typed.
      own: overrides of the sections of the sweep, as typed.
      dimensions: those of the command line.
      theirs: words for one of Hydra's launchers.
    """

    fixed: tuple[str, ...]
    own: tuple[str, ...]
    dimensions: tuple[Choice | Interval, ...]
    theirs: tuple[str, ...] = ()


def read(words: Sequence[str], config_dir: str | Path | None = None) -> Words:
    """Sort the words of a sweep.

    Raises: ConfigError for a word that cannot be read, or that lists values of the sweep's own sections.
    """
    theirs = [word for word in words if typed.is_of_launcher(word)]
    words = [word for word in words if word not in theirs]
    overrides = rewrite(words, sweeps=True)
    fixed: list[str] = []
    own: list[str] = []
    dimensions: list[Choice | Interval] = []
    with Origins({}, tuple(overrides)).locating():
        typed.read(overrides, sweeps=True)
        for word in words:
            override = typed.read(rewrite([word], sweeps=True)[:1], sweeps=True)[0]
            is_own = override.key_or_group.partition(".")[0] in OF_SWEEPS
            if override.is_sweep_override() and is_own:
                raise ConfigError("a sweep has one of them; give one value.", key=word)
            if override.is_sweep_override():
                dimensions.append(_dimension(word, override, config_dir))
            else:
                (own if is_own else fixed).append(word)
    _check_once([key for each in dimensions for key in keys_of(each)])
    return Words(tuple(fixed), tuple(own), tuple(dimensions), tuple(theirs))


def declared(section: Mapping[str, Any], words: Words) -> Space:
    """Join the dimensions of the section `sweep` with those of the command line, which replaces keys of the section.

    Args:
      section: with lists, texts such as "0-4", intervals such as `{low: 1e-4, high: 1e-1, log: true}`, and under `zip`
        lists that are read side by side.

    Raises: ConfigError.
    """
    given = {_bare(key) for each in words.dimensions for key in keys_of(each)}
    given |= {_bare(word.partition("=")[0]) for word in words.fixed}
    found: list[Choice | Interval] = []
    for key, value in _leaves({key: value for key, value in section.items() if key not in (*SETTINGS, ZIP)}):
        if _bare(key) not in given and value is not None:
            _check_key(key)
            found.append(_read(key, value))
    if section.get(ZIP):
        found += _zipped(section[ZIP], given)
    space = [*found, *words.dimensions]
    for each in space:
        _check_distinct(each)
    return space


def keys_of(dimension: Choice | Interval) -> tuple[str, ...]:
    """Return the keys that a dimension sets."""
    return dimension.keys if isinstance(dimension, Choice) else (dimension.key,)


def covers(space: Space, parameters: Mapping[str, Any]) -> bool:
    """Tell whether a point is among those that the dimensions allow."""
    for each in space:
        if isinstance(each, Choice) and tuple(parameters.get(key) for key in each.keys) not in each.values:
            return False
        if isinstance(each, Interval) and not each.low <= parameters.get(each.key, math.nan) <= each.high:
            return False
    return True


def words_of(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Write plain values by key as the words of a command line."""
    return tuple(f"{key}={_text(value)}" for key, value in parameters.items())


def _dimension(word: str, override: Override, config_dir: str | Path | None) -> Choice | Interval:
    key, value = word.partition("=")[0], override.value()
    if isinstance(value, IntervalSweep):
        integer = isinstance(value.start, int) and isinstance(value.end, int)
        return _interval(key, value.start, value.end, "log" in value.tags, integer or "int" in value.tags)
    if isinstance(value, Glob):
        names = _options(override.key_or_group, config_dir)
        values = list(value.filter(names))
    else:
        values = [_plain(each) for each in override.sweep_iterator()]
    if not values:
        raise ConfigError(f"the sweep has no job; nothing fits {word}.")
    return Choice((key,), tuple((each,) for each in values))


def _options(group: str, config_dir: str | Path | None) -> list[str]:
    """List the files of a group, as `glob(…)` chooses from them."""
    words = [] if config_dir is None else [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"]
    with search_path.session({}), hydra.initialize_config_module("framework_conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return loader.get_group_options(group, ObjectType.CONFIG, "config", words)


def _plain(value: Any) -> Any:
    """Return a value of Hydra's grammar without its quotes."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    return value


def _text(value: Any) -> str:
    """Write a plain value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_text(each)}' for key, each in value.items())}}}"
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z_][\w./:-]*", text) and text.lower() not in _WORDS else quoted(text)


_WORDS = ("null", "true", "false", "nan", "inf")


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and not {"low", "high"} & set(value):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _read(key: str, value: Any) -> Choice | Interval:
    """Read a dimension of the section."""
    at = f"sweep.{key}"
    if isinstance(value, Mapping):
        known = {"low", "high", "log", "integer"}
        for name in value:
            if name not in known:
                raise ConfigError(f"an interval has no '{name}'.{nearest(str(name), known)}", key=at)
        if not {"low", "high"} <= set(value):
            raise ConfigError("an interval needs low and high.", key=at)
        integer = bool(value.get("integer", isinstance(value["low"], int) and isinstance(value["high"], int)))
        return _interval(key, value["low"], value["high"], bool(value.get("log", False)), integer)
    return Choice((key,), tuple((each,) for each in _values(value, at)))


def _values(value: Any, at: str) -> list[Any]:
    if isinstance(value, str) and (ends := re.fullmatch(r"(\d+)-(\d+)", value)):
        first, last = int(ends[1]), int(ends[2])
        if last < first:
            raise ConfigError(f"expected the lower number first, found {value!r}.", key=at)
        return list(range(first, last + 1))
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ConfigError("expected some values, found an empty list.", key=at)
    return values


def _interval(key: str, low: Any, high: Any, log: bool, integer: bool) -> Interval:
    at = f"sweep.{key}"
    for each in (low, high):
        if isinstance(each, bool) or not isinstance(each, int | float):
            raise ConfigError(f"expected numbers for low and high, found {each!r}.", key=at)
    if not low < high:
        raise ConfigError(f"expected low < high, found {low} and {high}.", key=at)
    if log and low <= 0:
        raise ConfigError(f"a logarithmic interval begins above 0, found {low}.", key=at)
    return Interval(key, low, high, log, integer)


def _zipped(columns: Any, given: set[str]) -> list[Choice]:
    """Read lists side by side; a key of the command line leaves."""
    at = f"sweep.{ZIP}"
    if not isinstance(columns, Mapping):
        raise ConfigError(f"expected lists by key, found {columns!r:.60}.", key=at)
    read = {key: _values(value, f"{at}.{key}") for key, value in _leaves(columns) if _bare(key) not in given}
    for key in read:
        _check_key(key)
    if len({len(values) for values in read.values()}) > 1:
        lengths = ", ".join(f"{key} has {len(values)}" for key, values in read.items())
        raise ConfigError(f"lists that are read side by side have one length; {lengths}.", key=at)
    return [Choice(tuple(read), tuple(zip(*read.values(), strict=True)))] if read else []


def _check_key(key: str) -> None:
    section = re.split(r"[.@]", _bare(key))[0]
    known = (*search_path.SECTIONS, *SETTINGS, ZIP)
    if section not in search_path.SECTIONS:
        raise ConfigError(f"no such section, and no setting of a sweep.{nearest(section, known)}", key=f"sweep.{key}")


def _check_once(keys: Sequence[str]) -> None:
    for key in keys:
        if [_bare(each) for each in keys].count(_bare(key)) > 1:
            raise ConfigError("it is listed twice; list all of its values once.", key=key)


def _check_distinct(dimension: Choice | Interval) -> None:
    """Refuse a value that is listed twice: its point would be trained twice, and count twice in means."""
    if isinstance(dimension, Interval):
        return
    seen = set()
    for values in dimension.values:
        text = json.dumps(values)
        if text in seen:
            shown = ", ".join(map(_text, values))
            raise ConfigError(f"{shown} is listed twice; list each value once.", key=", ".join(dimension.keys))
        seen.add(text)


def _bare(key: str) -> str:
    return key.lstrip("+~")
