"""What `python -m framework plugins` prints."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from framework.errors import ConfigError, PluginError, nearest
from framework.registry.entry_points import Plugin, Registry, discover
from framework.registry.kinds import GROUPS, KINDS
from framework.registry.signatures import REQUIRED, schema_of


def show(words: Sequence[str]) -> str:
    """The listing for `plugins`, `plugins KIND` or `plugins KIND NAME`.

    Raises: ConfigError for an unknown kind or name, PluginError if the named plugin is broken.
    """
    if len(words) > 2:
        raise ConfigError(f"plugins: expected KIND and NAME at most, found '{' '.join(words)}'.")
    registry = discover()
    if not words:
        lines = [line for kind in KINDS for line in _listing(registry, kind)]
        return "\n".join([*lines, *(f"BROKEN {error}" for error in (*registry.packages()[1], *registry.broken))])
    kind = GROUPS.get(words[0], words[0])
    if kind not in KINDS:
        raise ConfigError(f"no plugin kind is named '{words[0]}'.{nearest(words[0], KINDS)}")
    if len(words) == 1:
        return "\n".join(_listing(registry, kind, with_options=True))
    return _details(registry.find(kind, words[1], "plugins"))


def _listing(registry: Registry, kind: str, with_options: bool = False) -> list[str]:
    plugins = registry.every(kind)
    width = max((len(plugin.name) for plugin in plugins), default=0)
    lines = [f"{kind}:"]
    for plugin in plugins:
        lines.append(f"  {plugin.name:<{width}}  {plugin.owner}  {_first_line(plugin)}")
        if with_options:
            lines += _options(plugin, " " * (width + 4))
    return lines + [f"  BROKEN {error}" for error in registry.catalogued(kind)[1]]


def _details(plugin: Plugin) -> str:
    documentation = inspect.getdoc(plugin.load()) or "(no documentation)"
    head = f"{KINDS[plugin.kind]} '{plugin.name}', from {plugin.owner} ({plugin.target})"
    options = _options(plugin, "  ") or ["  none"]
    return "\n".join([head, "", documentation, "", "options:", *options])


def _options(plugin: Plugin, indent: str) -> list[str]:
    try:
        schema = schema_of(plugin.load())
    except PluginError:
        return []
    lines = [f"{option.name}: {option.type_name}{_default(option.default)}" for option in schema.options]
    lines += ["values of any number, in order"] * schema.variadic + ["options of any name"] * schema.open
    return [indent + line for line in lines]


def _default(value: Any) -> str:
    if value is REQUIRED:
        return "  (required)"
    return f" = {value.__name__ if inspect.isroutine(value) or isinstance(value, type) else repr(value)}"


def _first_line(plugin: Plugin) -> str:
    try:
        return (inspect.getdoc(plugin.load()) or "").partition("\n")[0]
    except PluginError as error:
        return f"BROKEN: {error}"
