"""The verb `plugins`: what is installed, searched by any word, and the options of one plugin."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, get_args

from framework.command import Command
from framework.commands.answers import print_json
from framework.commands.arguments import Arguments
from framework.commands.docstrings import Docstring, parsed, plain
from framework.console.tables import text_table
from framework.console.terminal import page_width
from framework.errors import ConfigError, PluginError, nearest, printable
from framework.registry.entry_points import OURS, Plugin, discover
from framework.registry.kinds import GROUPS, KINDS
from framework.registry.signatures import REQUIRED, Option, Schema, schema_of

WIDEST = 100
"""Characters of a line of prose, which nobody likes to read in longer ones."""

LEAST = 30
"""Characters that a line of help needs beside the names; where there are fewer, it stands below its name."""

NAMED = {**{noun: kind.name for kind in KINDS.values() for noun in (kind.noun, kind.name.removesuffix("s"))}, **GROUPS}
"""Kinds by the words for one component and by the sections of a config."""

PLACES = {
    "layers": "model=serial 'model.layers=[{}]'",
    "transforms": "+experiment=mnist 'data.transform=[{}]'",
    "environments": "+experiment=cartpole environment={}",
    "stores": "data=digits callbacks.checkpoint.store={}",
    "data": "data={}",
    "tasks": "task={}",
    "launchers": "-m +experiment=mnist seed=0,1,2 launcher={}",
    "searches": "-m +experiment=mnist 'optimizer.learning_rate=interval(1e-4,1e-1)' search={}",
}
"""Command lines that choose a component of a kind, where `section=name` is not enough."""

SAMPLES: dict[type, str] = {int: "8", float: "0.1", bool: "true", str: "…", tuple: "[8]", list: "[8]", dict: "{}"}
"""Values that stand for options without a default, by type."""


def plugins() -> Command:
    """List what is installed, and its options."""
    return Command("plugins", "list or search what is installed, with its options", run, group="look up")


def run(words: list[str]) -> None:
    """Print what is registered: everything, one kind, what a word finds, or one plugin with its options.

    Raises: ConfigError for an unknown kind or name, PluginError if the named plugin is broken.
    """
    arguments = Arguments(
        "plugins",
        "List the plugins that are installed, those of one kind, those that a word finds in names and first lines, or "
        "one with an example, its options and its documentation.",
        "plugins optimizer adamw",
        "[KIND [NAME] | WORD]",
    )
    about = f"one of {', '.join(KINDS)}, one of them in the singular, a config group, or a word to search for"
    arguments.add_argument("kind", nargs="?", metavar="KIND", help=about)
    arguments.add_argument("name", nargs="?", metavar="NAME", help="the plugin's name, or distribution:name")
    arguments.add_json()
    given = arguments.read(words)
    asked = [word for word in (given.kind, given.name) if word is not None]
    if given.json:
        print_json(as_json(asked))
        return
    # A terminal shows what fits; a program that reads gets whole lines.
    sys.stdout.write(printable(show(asked, page_width())) + "\n")


def show(words: Sequence[str], width: int | None = None) -> str:
    """Return the listing for `plugins`, `plugins KIND`, `plugins WORD` or `plugins KIND NAME`.

    Args:
      words: the kind and the name, or less.
      width: characters in a line, at which it is cut; None cuts nothing.

    Raises: ConfigError for an unknown kind or name, PluginError if the named plugin is broken.
    """
    registry = discover()
    if len(words) > 1:
        return _details(registry.find(_kind(words[0]), words[1], "plugins"), width)
    groups = {kind: registry.every(kind) for kind in KINDS}
    broken = {kind: registry.catalogued(kind)[1] for kind in KINDS}
    if words and _known(words[0]) is None:
        groups, broken = _found(groups, words[0]), {}
        if not groups:
            _kind(words[0], is_searched=True)
    elif words:
        groups = {_kind(words[0]): groups[_kind(words[0])]}
    texts = [_listing(kind, found, broken.get(kind, ()), width) for kind, found in groups.items()]
    if not words:
        texts += [f"BROKEN {error}" for error in (*registry.packages()[1], *registry.broken)]
    return "\n".join(texts)


def as_json(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return what `show` lists as plain values: kind, name, distribution, version, target, help and options.

    Raises: as `show`.
    """
    registry = discover()
    if len(words) > 1:
        found = [registry.find(_kind(words[0]), words[1], "plugins")]
    elif words and _known(words[0]) is not None:
        found = registry.every(_kind(words[0]))
    else:
        groups = {kind: registry.every(kind) for kind in KINDS}
        groups = _found(groups, words[0]) if words else groups
        if words and not groups:
            _kind(words[0], is_searched=True)
        found = [plugin for each in groups.values() for plugin in each]
    return [_described(plugin) for plugin in found]


def example(plugin: Plugin, schema: Schema) -> str:
    """Return a command line that chooses a plugin, with options that it needs, or one that it may be given.

    A value that stands for an option without a default is to be replaced.
    """
    kind = KINDS[plugin.kind]
    if plugin.kind == "commands":
        return f"framework {plugin.name} --help"
    # The networks and losses of a task are sections of their own.
    options = () if plugin.kind == "tasks" else schema.options
    needed = {option.name: _sample(option) for option in options if option.default is REQUIRED}
    optional = {option.name: _value(option.default) for option in options if _is_plain(option.default)}
    shown = needed or dict(list(optional.items())[:1])
    if plugin.kind in ("layers", "transforms"):
        inside = f"{{{plugin.name}: {{{', '.join(f'{key}: {value}' for key, value in shown.items())}}}}}"
        return f"framework {PLACES[plugin.kind].format(inside if shown else plugin.name)}"
    if not kind.section and plugin.kind not in PLACES:
        return ""
    choice = f"{kind.section}+={plugin.name}" if kind.tagged else f"{kind.section}={plugin.name}"
    place = PLACES.get(plugin.kind, f"+experiment=mnist {choice}").format(plugin.name)
    under = f"{kind.section}.{plugin.name}" if kind.tagged else kind.section
    settings = [_quoted(f"{under}.{key}={value}") for key, value in shown.items()] if kind.section else []
    return " ".join(["framework", place, *settings])


def _kind(word: str, is_searched: bool = False) -> str:
    """Return the kind that a word names; `is_searched` if it was searched for, too. Raises: ConfigError."""
    kind = _known(word)
    if kind is None:
        also = ", and no name or first line has that word" if is_searched else ""
        raise ConfigError(f"no plugin kind is named '{word}'{also}.{nearest(word, [*KINDS, *GROUPS])}")
    return kind


def _known(word: str) -> str | None:
    return word if word in KINDS else NAMED.get(word)


def _found(groups: dict[str, list[Plugin]], word: str) -> dict[str, list[Plugin]]:
    """Return the plugins that have a word in their name or first line, by kind."""
    small = word.lower()
    matching = {
        kind: [each for each in plugins if small in each.name.lower() or small in _first_line(each).lower()]
        for kind, plugins in groups.items()
    }
    return {kind: found for kind, found in matching.items() if found}


def _listing(kind: str, plugins: Sequence[Plugin], errors: Sequence[PluginError], width: int | None) -> str:
    broken = [_cut(f"  BROKEN {error}", width) for error in errors]
    if width is None:
        rows = [(f"  {plugin.name}", plugin.owner, _first_line(plugin)) for plugin in plugins]
        return "\n".join([f"{kind}:", *([text_table(rows)] if rows else []), *broken])
    size = max((len(plugin.name) for plugin in plugins), default=0)
    lines = []
    for plugin in plugins:
        owner = "" if plugin.distribution == OURS else f" ({plugin.owner})"
        text = f"{_first_line(plugin)}{owner}"
        if size + 4 + LEAST <= width:
            lines.append(_cut(f"  {plugin.name:<{size}}  {text}", width))
        else:
            lines += [_cut(f"  {plugin.name}", width), *([_cut(f"    {text}", width)] if text else [])]
    return "\n".join([f"{kind}:", *lines, *broken])


def _details(plugin: Plugin, width: int | None) -> str:
    factory = plugin.load()
    schema, size = schema_of(factory), min(width or WIDEST, WIDEST)
    documentation = parsed(inspect.getdoc(factory) or "(no documentation)", size)
    copied = example(plugin, schema)
    head = f"{KINDS[plugin.kind].noun} '{plugin.name}', from {plugin.owner} ({plugin.target})"
    parts = [copied, "\n".join(textwrap.wrap(head, size, break_long_words=False))]
    parts += ["\n".join(textwrap.wrap(documentation.summary, size)), _options(schema, documentation, size)]
    return "\n\n".join(part for part in [*parts, documentation.rest] if part)


def _options(schema: Schema, documentation: Docstring, size: int) -> str:
    """Return a line for each option with type and default, and its meaning below."""
    lines = ["options:"]
    for option in schema.options:
        needed = "  (required)" if option.default is REQUIRED else f" = {_value(option.default)}"
        head = f"{option.name}: {option.type_name}{needed}"
        lines += textwrap.wrap(head, size, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
        if meaning := documentation.options.get(option.name):
            lines += textwrap.wrap(meaning, size, initial_indent="      ", subsequent_indent="      ")
    lines += ["  values of any number, in order"] if schema.variadic else []
    lines += ["  options of any name"] if schema.open else []
    return "\n".join(lines if len(lines) > 1 else [*lines, "  none"])


def _described(plugin: Plugin) -> dict[str, Any]:
    facts = {name: getattr(plugin, name) for name in ("kind", "name", "distribution", "version", "target")}
    try:
        factory = plugin.load()
    except PluginError as error:
        return {**facts, "help": "", "options": [], "error": str(error)}
    documentation = parsed(inspect.getdoc(factory) or "", WIDEST)
    options = [
        {
            "name": option.name,
            "type": option.type_name,
            "required": option.default is REQUIRED,
            "default": None if option.default is REQUIRED else _value(option.default),
            "about": documentation.options.get(option.name, ""),
        }
        for option in schema_of(factory).options
    ]
    return {**facts, "help": documentation.summary, "options": options, "error": None}


def _first_line(plugin: Plugin) -> str:
    try:
        return plain((inspect.getdoc(plugin.load()) or "").partition("\n")[0])
    except PluginError as error:
        return f"BROKEN: {error}"


def _value(value: Any) -> str:
    """Write a default as a config would hold it, and what is no plain value by its name."""
    if inspect.isroutine(value) or isinstance(value, type):
        return value.__name__
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(value) if isinstance(value, str | int | float) else repr(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _sample(option: Option) -> str:
    """Return a value that an option without a default could have."""
    annotation = option.annotation
    while get_args(annotation) and annotation not in SAMPLES:
        choices = [each for each in get_args(annotation) if each is not type(None)]
        if isinstance(choices[0], str):
            return choices[0]
        if (origin := getattr(annotation, "__origin__", None)) in SAMPLES:
            return SAMPLES[origin]
        annotation = choices[0]
    return SAMPLES.get(annotation, "…") if isinstance(annotation, type) else "…"


def _quoted(word: str) -> str:
    return f"'{word}'" if any(sign in word for sign in "[]{} ") else word


def _cut(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else line[: width - 1] + "…"
