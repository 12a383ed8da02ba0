"""What a config may say: registered components, plain values, and interpolations that end. Nothing of it is run.

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
"""What of Hydra's own section may be set: how much is logged."""

RESOLVERS = ("steps", "oc.env")
"""What an interpolation may call. `oc.decode`, `oc.create` and those that libraries register are not among them."""

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
                raise ConfigError(
                    f"{below}: a config names registered components; there is no '{name}'. "
                    "`python -m framework plugins` lists them."
                )
            if is_hydras(below) and not (isinstance(value, Mapping) and below == "hydra") and below not in OPEN:
                raise ConfigError(f"{below}: of Hydra's own section only {', '.join(OPEN)} can be set.")
            check_content(value, below)
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            check_content(value, f"{key}[{index}]")
    elif isinstance(content, str) and "$" in content:
        _check_interpolations(content, key)


def check_file(content: Any, package: str | None) -> None:
    """Check a file's content, its header and its defaults list.

    Raises: ConfigError, as `check_content`, and for what would be put into Hydra's section.
    """
    if package and _names_hydra(package):
        raise ConfigError(f"@package {package}: a file cannot be part of Hydra's own section.")
    if not isinstance(content, Mapping):
        return
    prefix = "" if package in (None, "_global_") or package.startswith("_") else f"{package}."
    check_content({name: value for name, value in content.items() if name != "defaults"})
    if prefix:
        check_content({f"{prefix}{name}": None for name in content})
    defaults = content.get("defaults")
    for entry in defaults if isinstance(defaults, list) else []:
        if _names_hydra(str(entry)):
            raise ConfigError(f"defaults: {str(entry)!r}: Hydra's own groups cannot be chosen.")
        check_content(list(entry.values()) if isinstance(entry, Mapping) else [entry], "defaults")


def check_words(words: Sequence[str]) -> None:
    """Check overrides, as Hydra will read them.

    Raises: ConfigError, as `check_content`, and for words that are longer or nested deeper than a config can be.
    """
    jobs = 1
    for word in words:
        _check_size(word)
        if not _SUSPICIOUS.search(word) and "range" not in word and "," not in word and "glob" not in word:
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except Exception:  # Hydra says what is wrong with it
            continue
        _check_override(override, word)
        jobs *= _jobs(override)
        if jobs > MAX_JOBS:
            raise ConfigError(f"{word}: the sweep has more than {MAX_JOBS} jobs.")


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
            raise ConfigError(f"{key}: its interpolations lead back to themselves, or through more than {MAX_CHAIN}.")
        total = 1 + (len(node) // 100 if isinstance(node, str) else 0) + sum(each for each, _ in inner)
        if total > MAX_VALUES:
            raise ConfigError(f"{key or 'config'}: resolved it would hold more than {MAX_VALUES} values.")
        known[key] = total, height
        return known[key]

    try:
        weigh(config, (), 0)
    except RecursionError:
        raise ConfigError(f"config: found more than {MAX_DEPTH} levels of nesting; a config has fewer.") from None


def is_hydras(key: str) -> bool:
    """Whether a key is of Hydra's own section."""
    return key == "hydra" or key.startswith("hydra.")


def _check_override(override: Override, word: str) -> None:
    group, package = override.key_or_group, override.package
    if (package and _names_hydra(package)) or ("/" in group and _names_hydra(group)):
        raise ConfigError(f"{word}: Hydra's own groups cannot be chosen.")
    if package is None:
        value = override.value() if not override.is_sweep_override() else None
        nested: Any = value
        for name in reversed(group.split(".")):
            nested = {name: nested}
        check_content(nested)
        if isinstance(override._value, Sweep):
            check_content(str(word), group)


def _check_size(word: str) -> None:
    if len(word) > MAX_SCALAR:
        raise ConfigError(f"{word[:40]}…: found {len(word)} characters, expected at most {MAX_SCALAR}.")
    depth = deepest = 0
    for character in word:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise ConfigError(f"{word[:40]}…: found more than {MAX_DEPTH} levels of nesting; a config has fewer.")


def _jobs(override: Override) -> int:
    """How many values a sweep gives to a key; a range tells without being counted out."""
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
        raise ConfigError(f"{key}: {text!r} is no interpolation; expected ${{key}} or ${{{RESOLVERS[0]}:0.1}}.")
    for found in _INTERPOLATION.finditer(text):
        resolver = found["resolver"]
        if resolver and resolver not in RESOLVERS:
            raise ConfigError(f"{key}: a config cannot call the resolver '{resolver}'.{nearest(resolver, RESOLVERS)}")
        variable = (found["arguments"] or "").partition(",")[0].strip()
        if resolver == "oc.env" and is_secret(variable) and not is_secret(key.rpartition(".")[2]):
            raise ConfigError(
                f"{key}: ${variable} is named like a secret; only a key named like one can hold it, such as token."
            )


def _targets(config: Any, text: str, path: tuple[str, ...]) -> list[tuple[Any, tuple[str, ...]]]:
    """What the interpolations in a text stand for, with where that is; what does not exist weighs nothing."""
    found = []
    for match in _INTERPOLATION.finditer(text):
        if match["key"] is None:
            continue
        key = match["key"].strip()
        up = len(key) - len(key.lstrip("."))
        parts = [part for part in re.split(r"[.\[\]]+", key) if part]
        target = (*(path[: len(path) - up] if up else ()), *parts)
        node: Any = config
        for depth, part in enumerate(target):
            if isinstance(node, str):  # it interpolates itself, and holds no less than what is looked for in it
                target = target[:depth]
                break
            if isinstance(node, Mapping):
                node = next((value for name, value in node.items() if str(name) == part), None)
            else:
                node = (
                    node[int(part)] if isinstance(node, list) and part.isdecimal() and int(part) < len(node) else None
                )
        if node is not None:
            found.append((node, target))
    return found


def _names_hydra(text: str) -> bool:
    return "hydra" in re.split(r"[^\w-]+", text)
