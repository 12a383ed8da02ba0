"""The contract of verbs. This module imports no JAX: `framework help` reads every verb, and does not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """A verb of the command line.

    An entry point of the group `framework.commands` names a factory without required options that returns one. Import
    what is heavy, such as JAX, inside `run`: the help of all verbs imports the module of each.

    Attributes:
      name: the verb, as the entry point has it.
      help: one line for `framework help`.
      run: takes the words after the verb, and returns an exit code, or None for 0. `--help` is one of its words.
      group: the heading under which `framework help` lists the verb.
    """

    name: str
    help: str
    run: Callable[[list[str]], int | None]
    group: str = "more"
