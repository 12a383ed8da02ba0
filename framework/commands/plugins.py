"""The verb `plugins`: what is installed, and its options."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from framework.command import Command
from framework.commands.arguments import Arguments
from framework.errors import ConfigError, PluginError, nearest, printable
from framework.registry.entry_points import Plugin, Registry, discover
from framework.registry.kinds import GROUPS, KINDS
from framework.registry.signatures import REQUIRED, schema_of
from framework.tables import text_table


def plugins() -> Command:
    """List what is installed, and its options."""
    return Command("plugins", "list what is installed, one kind, or the options of one", run, group="look up")


def run(words: list[str]) -> None:
    """Print what is registered: everything, one kind, or one plugin with its options.

    Raises: ConfigError for an unknown kind or name, PluginError if the named plugin is broken.
    """
    arguments = Arguments(
        "plugins",
        "List the plugins that are installed, those of one kind with their options, or one with its documentation.",
        "plugins optimizer adamw",
        "[KIND [NAME]]",
    )
    arguments.add_argument("kind", nargs="?", metavar="KIND", help=f"one of {', '.join(KINDS)}, or a config group")
    arguments.add_argument("name", nargs="?", metavar="NAME", help="the plugin's name, or distribution:name")
    given = arguments.read(words)
    # A terminal shows whole words; a program that reads gets one plugin in each line.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    shown = show([word for word in (given.kind, given.name) if word is not None], width)
    sys.stdout.write(printable(shown) + "\n")


def show(words: Sequence[str], width: int | None = None) -> str:
    """Return the listing for `plugins`, `plugins KIND` or `plugins KIND NAME`.

    Args:
      words: the kind and the name, or less.
      width: characters in a line; None never wraps.

    Raises: ConfigError for an unknown kind or name, PluginError if the named plugin is broken.
    """
    registry = discover()
    if not words:
        broken = [*registry.packages()[1], *registry.broken]
        return "\n".join([*(_listing(registry, kind, width) for kind in KINDS), *(f"BROKEN {e}" for e in broken)])
    kind = GROUPS.get(words[0], words[0])
    if kind not in KINDS:
        raise ConfigError(f"no plugin kind is named '{words[0]}'.{nearest(words[0], [*KINDS, *GROUPS])}")
    if len(words) == 1:
        return _listing(registry, kind, width, with_options=True)
    return _details(registry.find(kind, words[1], "plugins"))


def _listing(registry: Registry, kind: str, width: int | None, with_options: bool = False) -> str:
    rows = []
    for plugin in registry.every(kind):
        rows.append((f"  {plugin.name}", plugin.owner, _first_line(plugin)))
        if with_options:
            rows += [("", "", f"  {option}") for option in _options(plugin)]
    broken = [f"  BROKEN {error}" for error in registry.catalogued(kind)[1]]
    return "\n".join([f"{kind}:", *([text_table(rows, width=width)] if rows else []), *broken])


def _details(plugin: Plugin) -> str:
    documentation = inspect.getdoc(plugin.load()) or "(no documentation)"
    head = f"{KINDS[plugin.kind].noun} '{plugin.name}', from {plugin.owner} ({plugin.target})"
    options = _options(plugin) or ["none"]
    return "\n".join([head, "", documentation, "", "options:", *(f"  {option}" for option in options)])


def _options(plugin: Plugin) -> list[str]:
    try:
        schema = schema_of(plugin.load())
    except PluginError:
        return []
    lines = [f"{option.name}: {option.type_name}{_default(option.default)}" for option in schema.options]
    if schema.variadic:
        lines.append("values of any number, in order")
    if schema.open:
        lines.append("options of any name")
    return lines


def _default(value: Any) -> str:
    if value is REQUIRED:
        return "  (required)"
    return f" = {value.__name__ if inspect.isroutine(value) or isinstance(value, type) else repr(value)}"


def _first_line(plugin: Plugin) -> str:
    try:
        return (inspect.getdoc(plugin.load()) or "").partition("\n")[0]
    except PluginError as error:
        return f"BROKEN: {error}"
