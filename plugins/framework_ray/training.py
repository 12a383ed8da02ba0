"""The program of a Ray worker: the command line of one point, or one process of several that share it."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module

from framework.api import last_words, start_command

POLL = 0.1
"""Seconds between two looks for the end of a process."""


def address() -> str:
    """Return this node's address with a port that is free."""
    ray = import_module("ray")
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def train(
    command: Sequence[str], cwd: str, environment: Mapping[str, str], place: tuple[int, int], coordinator: str = ""
) -> tuple[int, str]:
    """Run a command line to its end.

    Args:
      command: of the point.
      cwd: the folder in which the sweep was begun.
      environment: variables of that shell, which win over those of the node.
      place: number of this process, and of all that share the point.
      coordinator: address of the first of several processes.

    Returns: the exit code, negative for a signal, and the last error or line that was printed.
    """
    index, count = place
    words = list(command)
    if count > 1:
        words += [f"distributed.coordinator={coordinator}", f"distributed.processes={count}"]
        words += [f"distributed.process={index}", *(["--follow"] if index else [])]
    with tempfile.TemporaryFile() as output:
        process = start_command(words, output, cwd, environment)
        try:
            while (code := process.poll()) is None:
                time.sleep(POLL)  # where Ray can interrupt, which it cannot while a process is waited for
        except BaseException:  # cancelled: the run saves its state
            process.terminate()
            process.wait()
            raise
        output.seek(0)
        return code, last_words(output.read().decode(errors="replace"))
