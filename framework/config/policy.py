"""The policy of configs: registered components, plain values, and interpolations that end. Nothing of it is run.

Every piece is checked before it is composed: each file as it is read, each override as it is given. So nothing can
enter Hydra's own section, whose entries Hydra calls by their dotted names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep

from framework.config.safe_load import MAX_DEPTH, MAX_SCALAR
from framework.config.secrets import is_secret
from framework.errors import ConfigError, nearest

OPEN = ("hydra.verbose",)
"""Keys of Hydra's own section that may be set: how much is logged."""

RESOLVERS = ("steps", "oc.env")
"""Resolvers that an interpolation may call. `oc.decode`, `oc.create` and those of libraries are not among them."""

MAX_VALUES = 100_000  # of a config with its interpolations resolved; a hundred characters count as one
MAX_CHAIN = 20  # interpolations of interpolations
MAX_JOBS = 10_000  # of a sweep

_INTERPOLATION = re.compile(r"\$\{\s*(?:(?P<resolver>[\w.]+)\s*:(?P<arguments>[^${}]*)|(?P<key>[^${}:]*))\}")
_SUSPICIOUS = re.compile(r"hydra|(^|\W)_\w+_(\W|$)|\$|@")


def check_content(content: Any, key: str = "") -> None:
    """Check keys and interpolations of plain data.

    Raises: ConfigError naming the key: for Hydra's keywords such as `_target_`, Hydra's section, a resolver that is not
      allowed, and an interpolation within another.
    """
    if isinstance(content, Mapping):
        for name, value in content.items():
            below = f"{key}.{name}" if key else str(name)
            if re.fullmatch(r"_\w+_", str(name)):
                text = f"a config names registered components; there is no '{name}'. `framework plugins` lists them."
                raise ConfigError(text, key=below)
            if is_hydras(below) and not (isinstance(value, Mapping) and below == "hydra") and below not in OPEN:
                raise ConfigError(f"of Hydra's own section only {', '.join(OPEN)} can be set.", key=below)
            check_content(value, below)
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            check_content(value, f"{key}[{index}]")
    elif isinstance(content, str) and "$" in content:
        _check_interpolations(content, key)


def check_file(content: Any, package: str | None) -> None:
    """Check a file's content, its header and its defaults list.

    Raises: ConfigError, as `check_content`, and for content that would be put into Hydra's section.
    """
    if package and _names_hydra(package):
        raise ConfigError("a file cannot be part of Hydra's own section.", key=f"@package {package}")
    if not isinstance(content, Mapping):
        return
    prefix = "" if package in (None, "_global_") or package.startswith("_") else f"{package}."
    check_content({name: value for name, value in content.items() if name != "defaults"})
    if prefix:
        check_content({f"{prefix}{name}": None for name in content})
    defaults = content.get("defaults")
    for entry in defaults if isinstance(defaults, list) else []:
        if _names_hydra(str(entry)):
            raise ConfigError(f"{str(entry)!r}: Hydra's own groups cannot be chosen.", key="defaults")
        check_content(list(entry.values()) if isinstance(entry, Mapping) else [entry], "defaults")


def check_words(words: Sequence[str]) -> None:
    """Check overrides, as Hydra will read them.

    Raises: ConfigError, as `check_content`, and for words that are longer than a config's can be.
    """
    jobs = 1
    for word in words:
        if len(word) > MAX_SCALAR:
            raise ConfigError(f"found {len(word)} characters, expected at most {MAX_SCALAR}.", key=f"{word[:40]}…")
        if not _SUSPICIOUS.search(word) and "range" not in word and "," not in word and "glob" not in word:
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except Exception:  # Hydra says what is wrong with it
            continue
        _check_override(override, word)
        jobs *= _jobs(override)
        if jobs > MAX_JOBS:
            raise ConfigError(f"the sweep has more than {MAX_JOBS} jobs.", key=word)


def check_expansion(config: Mapping[str, Any]) -> None:
    """Check that an unresolved config, once its interpolations are resolved, is of a size that it can have.

    Raises: ConfigError naming a key whose interpolation leads back to itself, or to more than `MAX_VALUES` values.
    """
    known: dict[str, tuple[int, int]] = {}  # by key: how many values, and interpolations of interpolations

    def weigh(node: Any, path: tuple[str, ...], chain: int) -> tuple[int, int]:
        key = ".".join(path)
        if key in known:
            return known[key]
        items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
        inner = [weigh(value, (*path, str(name)), chain) for name, value in items]
        targets = _targets(config, node, path) if isinstance(node, str) and "$" in node else []
        height = 1 if targets else 0
        if chain + height <= MAX_CHAIN:
            inner += [weigh(*target, chain + 1) for target in targets]
        height += max((each for _, each in inner), default=0)
        if chain + height > MAX_CHAIN:
            text = f"its interpolations lead back to themselves, or through more than {MAX_CHAIN}."
            raise ConfigError(text, key=key)
        total = 1 + (len(node) // 100 if isinstance(node, str) else 0) + sum(each for each, _ in inner)
        if total > MAX_VALUES:
            raise ConfigError(f"resolved it would hold more than {MAX_VALUES} values.", key=key or "config")
        known[key] = total, height
        return known[key]

    try:
        weigh(config, (), 0)
    except RecursionError:
        raise ConfigError(f"found more than {MAX_DEPTH} levels of nesting; a config has fewer.", key="config") from None


def is_hydras(key: str) -> bool:
    """Tell a key of Hydra's own section."""
    return key == "hydra" or key.startswith("hydra.")


def _check_override(override: Override, word: str) -> None:
    group, package = override.key_or_group, override.package
    if (package and _names_hydra(package)) or ("/" in group and _names_hydra(group)):
        raise ConfigError("Hydra's own groups cannot be chosen.", key=word)
    if package is None:
        value = override.value() if not override.is_sweep_override() else None
        nested: Any = value
        for name in reversed(group.split(".")):
            nested = {name: nested}
        check_content(nested)
        if isinstance(override._value, Sweep):
            check_content(str(word), group)


def _jobs(override: Override) -> int:
    """Count the values that a sweep gives to a key; a range is not made for that."""
    if not override.is_sweep_override():
        return 1
    if override.is_range_sweep():
        sweep: Any = override.value()
        return max(1, int(abs((sweep.stop - sweep.start) / (sweep.step or 1)))) if sweep.stop is not None else 1
    choices: Any = getattr(override.value(), "list", None)
    return len(choices) if choices else 1


def _check_interpolations(text: str, key: str) -> None:
    rest = _INTERPOLATION.sub("", text)
    if "${" in rest:
        raise ConfigError(f"{text!r} is no interpolation; expected ${{key}} or ${{{RESOLVERS[0]}:0.1}}.", key=key)
    for found in _INTERPOLATION.finditer(text):
        resolver = found["resolver"]
        if resolver and resolver not in RESOLVERS:
            raise ConfigError(f"a config cannot call the resolver '{resolver}'.{nearest(resolver, RESOLVERS)}", key=key)
        variable = (found["arguments"] or "").partition(",")[0].strip()
        if resolver == "oc.env" and is_secret(variable) and not is_secret(key.rpartition(".")[2]):
            text = f"${variable} is named like a secret; only a key named like one can hold it, such as token."
            raise ConfigError(text, key=key)


def _targets(config: Any, text: str, path: tuple[str, ...]) -> list[tuple[Any, tuple[str, ...]]]:
    """Return the values that the interpolations in a text stand for, with their paths; a missing one weighs nothing."""
    found = []
    for match in _INTERPOLATION.finditer(text):
        key, node, at = (match["key"] or "").strip(), config, ()
        up = len(key) - len(key.lstrip("."))
        for part in (*path[: len(path) - up if up else 0], *filter(None, re.split(r"[.\[\]]+", key))):
            if isinstance(node, str):  # it interpolates itself, and holds no less than what is looked for in it
                break
            items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
            node, at = next((value for name, value in items if str(name) == part), None), (*at, part)
        if key and node is not None:
            found.append((node, at))
    return found


def _names_hydra(text: str) -> bool:
    return "hydra" in re.split(r"[^\w-]+", text)
