"""A plugin-based experiment framework on JAX. Importing it imports nothing else until a name is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.python import load as load
    from framework.python import resume as resume
    from framework.python import run as run
    from framework.runner import Result as Result
    from framework.trained import Trained as Trained

_HOMES = {
    "run": "framework.python",
    "resume": "framework.python",
    "load": "framework.python",
    "Result": "framework.runner",
    "Trained": "framework.trained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'framework' has no attribute '{name}'")
    from importlib import import_module

    from framework.garbage import seldom_collected

    with seldom_collected():
        return getattr(import_module(_HOMES[name]), name)
