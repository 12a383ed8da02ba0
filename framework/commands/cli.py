"""The command line: a first word without `=` is a verb; overrides alone train."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from framework.commands import verbs
from framework.commands.help import experiments, start, versions
from framework.config.overrides import is_word
from framework.console.output import surviving
from framework.console.terminal import painted
from framework.errors import ConfigError, exit_code_of, line_of
from framework.registry.entry_points import discover

SIGPIPE = 141
"""Exit code of a program whose reader went away, as shells give it: 128 + 13."""

STDOUT = 1
"""File descriptor of the standard output."""


def main(words: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code: 0 done, 1 internal, 2 usage, 3 plugin, 4 data, 5 storage, 6 numerical,
    7 peer, 8 different, 129, 130 or 143 after a signal.
    """
    words = list(sys.argv[1:] if words is None else words)
    with_traceback = "--traceback" in words
    with surviving("stderr"), _quiet_pipe():
        try:
            code = dispatch([word for word in words if word != "--traceback"])
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError) and _has_no_reader():
                raise
            if with_traceback:
                traceback.print_exc()
            line = line_of(error)
            is_mistake = line.startswith("error[")
            sys.stderr.write((painted(line, "error", sys.stderr) if is_mistake else line) + "\n")
            code = exit_code_of(error)
    if code:
        sys.exit(code)


def dispatch(words: list[str]) -> int | None:
    """Call the verb, which is `train` for words that begin with an override or an option, and return its exit code.

    Raises: ConfigError if there is no such verb; FrameworkError as the verb.
    """
    first = words[0] if words else ""
    if not first:
        sys.stdout.write(start())
    elif first == "--version":
        sys.stdout.write(versions())
    elif first in ("--help", "-h"):
        return verbs.find("framework:help")(words[1:])
    elif is_word(first):
        if not discover().has("commands", first) and first in experiments():
            text = f"'{first}' is an experiment, and no command; train it by +experiment={first}."
            raise ConfigError(text, key="framework")
        return verbs.find(first)(words[1:])
    else:
        return verbs.find("framework:train")(words)
    return None


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """Exit in silence when the reader of our output has enough, as `head` and `less` may.

    Raises: SystemExit with the code of SIGPIPE.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and complains if it cannot.
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        sys.exit(SIGPIPE)


def _has_no_reader() -> bool:
    """Tell whether our output is the pipe that broke; a plugin may have pipes of its own."""
    poll = select.poll()
    poll.register(STDOUT, 0)  # errors are reported without being asked for
    return any(event & select.POLLERR for _, event in poll.poll(0))
