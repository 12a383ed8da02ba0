"""The verb `help`, and what `framework` alone and `framework --version` show. Imports neither JAX nor Hydra."""

from __future__ import annotations

import platform
import sys
import textwrap
from importlib import resources
from importlib.metadata import version

from framework.command import Command
from framework.commands import verbs
from framework.commands.arguments import Arguments
from framework.errors import printable
from framework.registry.entry_points import OURS, discover
from framework.registry.kinds import GROUPS

FIRST = ("train", "measure", "look up")
"""Groups of verbs in the order in which they are listed; others follow."""

WIDTH = 80


def help() -> Command:
    """Show the verbs, or the options of one."""
    return Command("help", "show this page, or the options of a verb", run, group="look up")


def run(words: list[str]) -> int | None:
    """Print the overview, or what a verb says of itself."""
    arguments = Arguments("help", "Show all verbs, or the options of one.", "help bench", "[VERB]")
    arguments.add_argument("verb", nargs="?", metavar="VERB", help="the verb; without it, all are listed")
    verb = arguments.read(words).verb
    if verb is not None:
        return verbs.find(verb)(["--help"])
    sys.stdout.write(printable(overview()))
    return None


def start() -> str:
    """Return what to type first."""
    return textwrap.dedent("""\
        framework trains what a config describes, composed of plugins, on JAX.

        To start:
          framework data=digits train.epochs=20   train on digits that are installed
          framework +experiment=mnist             train on MNIST, which is downloaded
          framework help                          list all verbs

        docs/index.md leads on.
        """)


def versions() -> str:
    """Return the versions of the framework, of JAX and of Python, in one line."""
    return f"framework {version('framework')}, jax {version('jax')}, python {platform.python_version()}\n"


def overview() -> str:
    """Return all verbs by group, the config groups, and where to read on, on one screen."""
    commands, broken = verbs.installed()
    groups = [*FIRST, *sorted({command.group for _, command in commands} - set(FIRST))]
    width = max(len(command.name) for _, command in commands)
    lines = [
        f"framework {version('framework')}: experiments on JAX, composed of plugins",
        "usage: framework KEY=VALUE ...    train, with such words as +experiment=mnist",
        "       framework VERB [WORD ...]  VERB --help shows options and an example",
    ]
    for group in groups:
        lines += ["", f"{group}:"]
        # The verb that gives a group its name comes first.
        for plugin, command in sorted(commands, key=lambda each: each[1].name != group):
            if command.group == group:
                owner = "" if plugin.distribution == OURS else f" ({plugin.owner})"
                lines.append(f"  {command.name:<{width}}  {command.help}{owner}")
    lines += [
        *(f"  BROKEN {error}" for error in broken),
        "",
        *_wrapped("config groups:", [*GROUPS, "debug", "experiment"]),
        *_wrapped("experiments:", experiments()),
        "read on: `framework plugins model` lists what model= can be; docs/index.md",
    ]
    return "\n".join(lines) + "\n"


def experiments() -> list[str]:
    """Return the names that `+experiment=` takes, of all installed packages of configs."""
    names = set()
    for _, package in discover().packages()[0]:
        folder = resources.files(package) / "experiment"
        if folder.is_dir():
            names |= {file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")}
    return sorted(names)


def _wrapped(heading: str, names: list[str]) -> list[str]:
    indent = " " * (len(heading) + 1)
    return textwrap.wrap(", ".join(names), WIDTH, initial_indent=f"{heading} ", subsequent_indent=indent)
