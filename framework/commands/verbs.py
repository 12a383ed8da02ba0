"""Verbs by name: found among the entry points, and imported when they are called or listed."""

from __future__ import annotations

from collections.abc import Callable

from framework.command import Command
from framework.errors import PluginError, blaming
from framework.registry.contract import checked
from framework.registry.entry_points import OURS, Plugin, discover


def find(verb: str) -> Callable[[list[str]], int | None]:
    """Find a verb, or `distribution:verb`, as a function of the words after it, which returns its exit code.

    The function of another distribution raises PluginError for errors of another kind than the framework's.

    Raises:
      ConfigError: no distribution registers the verb, or several do.
      PluginError: the verb cannot be imported.
    """
    plugin = discover().find("commands", verb, "framework")
    command = command_of(plugin)
    if plugin.distribution == OURS:  # its mistakes are ours, which exit code 1 admits
        return command.run

    def run(words: list[str]) -> int | None:
        # A command may end by SystemExit, as argparse does.
        with blaming(f"{plugin.label} failed", passing=(BrokenPipeError, SystemExit)):
            code = command.run(words)
            if code is not None and (not isinstance(code, int) or not 0 <= code <= 255):
                raise TypeError(f"expected an exit code from 0 to 255, or None, found {code!r}")
        return code

    return run


def installed() -> tuple[list[tuple[Plugin, Command]], list[PluginError]]:
    """Return every verb that can be imported, sorted by name, and an error for each of the others."""
    commands: list[tuple[Plugin, Command]] = []
    broken: list[PluginError] = []
    for plugin in discover().every("commands"):
        try:
            commands.append((plugin, command_of(plugin)))
        except PluginError as error:
            broken.append(error)
    return commands, broken


def command_of(plugin: Plugin) -> Command:
    """Make the command that an entry point names.

    Raises: PluginError if it cannot be made, or is no `Command`.
    """
    factory = plugin.load()
    with blaming(f"{plugin.label} cannot be built"):
        command = factory()
    return checked(plugin, command)
