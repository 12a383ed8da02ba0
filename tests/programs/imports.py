"""Import the core and every plugin; print what was started or connected to meanwhile, and which threads live on.

With the word `control` it starts a process, which must be seen.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
from typing import Any

ACTIONS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")
ACTIONS += ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.")
CORE = ("framework", "framework.commands.cli", "framework.runs.python_api", "framework.runs.run", "framework.testing")


def watched() -> list[str]:
    """A list to which each such action of this process is added from now on."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(ACTIONS):
            seen.append(f"{event} {arguments}"[:200])

    sys.addaudithook(hook)
    return seen


def load_all() -> None:
    """Import the core, and load every plugin of every kind."""
    for name in CORE:
        importlib.import_module(name)
    from framework.registry.entry_points import discover
    from framework.registry.kinds import KINDS

    registry = discover()
    for kind in KINDS:
        for plugin in registry.every(kind):
            plugin.load()


if __name__ == "__main__":
    seen = watched()
    if "control" in sys.argv:
        import subprocess

        subprocess.run(["true"], check=True)
    load_all()
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    print(json.dumps([seen, threads]))
