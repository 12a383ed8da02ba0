"""The policy of configs: registered components, plain values, and interpolations that end. Nothing of it is run.

Every piece is checked before it is composed: each file as it is read, each override as it is given. So nothing can
enter Hydra's own section, whose entries Hydra calls by their dotted names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from framework.config.secrets import is_secret
from framework.errors import ConfigError, nearest

OPEN = ("hydra.verbose",)
"""Keys of Hydra's own section that may be set: how much is logged."""

RESOLVERS = ("steps", "oc.env")
"""Resolvers that an interpolation may call. `oc.decode`, `oc.create` and those of libraries are not among them."""

MAX_VALUES = 100_000  # of a config with its interpolations resolved; a hundred characters count as one
INTERPOLATION = 20  # values that one interpolation counts as, by the time that it takes

_INTERPOLATION = re.compile(r"\$\{\s*(?:(?P<resolver>[\w.]+)\s*:(?P<arguments>[^${}]*)|(?P<key>[^${}:]*))\}")

_SHARE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def check_content(content: Any, key: str = "") -> None:
    """Check keys and interpolations of plain data.

    Raises: ConfigError naming the key: for Hydra's keywords such as `_target_`, Hydra's section, a resolver that is not
      allowed, and an interpolation within another.
    """
    if isinstance(content, Mapping):
        for name, value in content.items():
            below = f"{key}.{name}" if key else str(name)
            if name is None:
                raise ConfigError("a key is null; a key that is the word is quoted: 'null'.", key=below)
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
    if package and names_hydra(package):
        raise ConfigError("a file cannot be part of Hydra's own section.", key=f"@package {package}")
    if not isinstance(content, Mapping):
        return
    is_global = package in (None, "_global_") or package.startswith("_")
    if is_global and (odd := [name for name in content if not isinstance(name, str)]):
        raise ConfigError(f"expected the name of a section, found the key {odd[0]!r}.", key=str(odd[0]))
    check_content({name: value for name, value in content.items() if name != "defaults"})
    defaults = content.get("defaults")
    for entry in defaults if isinstance(defaults, list) else []:
        if names_hydra(str(entry)):
            raise ConfigError(f"{str(entry)!r}: Hydra's own groups cannot be chosen.", key="defaults")
        check_content(list(entry.values()) if isinstance(entry, Mapping) else [entry], "defaults")


def check_expansion(config: Mapping[str, Any]) -> None:
    """Check that an unresolved config, once its interpolations are resolved, is of a size that it can have.

    Raises: ConfigError naming a key whose interpolation leads back to itself, or to more than `MAX_VALUES` values.
    """
    sizes: dict[tuple[str, ...], int] = {}  # by path

    def measure(node: Any, path: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> int:
        key = ".".join(path) or "config"
        if path in above:
            raise ConfigError("its interpolations lead back to themselves.", key=key)
        if path not in sizes:
            own, below = 1, [(value, (*path, str(name))) for name, value in _items(node)]
            if isinstance(node, str):
                below = _targets(config, node, path)
                own += len(node) // 100 + INTERPOLATION * len(below)
            sizes[path] = own + sum(measure(value, at, (*above, path)) for value, at in below)
            if sizes[path] > MAX_VALUES:
                raise ConfigError(f"resolved it would hold more than {MAX_VALUES} values.", key=key)
        return sizes[path]

    measure(config, (), ())


def is_hydras(key: str) -> bool:
    """Tell a key of Hydra's own section."""
    return key == "hydra" or key.startswith("hydra.")


def names_hydra(text: str) -> bool:
    """Tell a package, a group or an entry of a defaults list that names Hydra's own section."""
    return "hydra" in re.split(r"[^\w-]+", text)


def _check_interpolations(text: str, key: str) -> None:
    rest = _INTERPOLATION.sub("", text)
    if "${" in rest:
        raise ConfigError(f"{text!r} is no interpolation; expected ${{key}} or ${{{RESOLVERS[0]}:0.1}}.", key=key)
    for found in _INTERPOLATION.finditer(text):
        resolver = found["resolver"]
        if resolver and resolver not in RESOLVERS:
            raise ConfigError(f"a config cannot call the resolver '{resolver}'.{nearest(resolver, RESOLVERS)}", key=key)
        variable = (found["arguments"] or "").partition(",")[0].strip()
        if resolver == "steps" and not _SHARE.fullmatch(found["arguments"].strip()):
            raise ConfigError(f"{text!r}: expected a share of train.steps, such as ${{steps:0.1}}.", key=key)
        if resolver == "oc.env" and not variable:
            raise ConfigError(f"{text!r} names no variable; expected such as ${{oc.env:HOME}}.", key=key)
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
            node, at = next((value for name, value in _items(node) if str(name) == part), None), (*at, part)
        if key and node is not None:
            found.append((node, at))
    return found


def _items(node: Any) -> Iterable[tuple[Any, Any]]:
    return node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
