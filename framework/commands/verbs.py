"""Verbs by name: found among the entry points, and imported when they are called or listed."""

from __future__ import annotations

from framework.command import Command
from framework.errors import PluginError, blaming
from framework.registry.contract import checked
from framework.registry.entry_points import OURS, Plugin, discover


def call(verb: str, words: list[str]) -> int | None:
    """Run a verb, or `distribution:verb`, and return its exit code.

    Raises:
      ConfigError: no distribution registers the verb, or several do.
      PluginError: the verb cannot be imported, or fails with an error of another kind than the framework's.
    """
    plugin = discover().find("commands", verb, "framework")
    command = command_of(plugin)
    if plugin.distribution == OURS:  # its mistakes are ours, which exit code 1 admits
        return command.run(words)
    # A command may end by SystemExit, as argparse does.
    with blaming(f"{plugin.label} failed", passing=(BrokenPipeError, SystemExit)):
        code = command.run(words)
        if code is not None and (not isinstance(code, int) or not 0 <= code <= 255):
            raise TypeError(f"expected an exit code from 0 to 255, or None, found {code!r}")
    return code


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
