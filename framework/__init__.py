"""A plugin-based experiment framework on JAX. Importing it imports nothing else until a name is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.errors import FrameworkError as FrameworkError
    from framework.runs.python_api import resume as resume
    from framework.runs.python_api import run as run
    from framework.runs.run import Result as Result
    from framework.sweeps.best import evaluate as evaluate
    from framework.sweeps.best import load as load
    from framework.sweeps.python_api import sweep as sweep
    from framework.trained.model_function import Trained as Trained

    __version__: str

_HOMES = {
    "run": "framework.runs.python_api",
    "resume": "framework.runs.python_api",
    "load": "framework.sweeps.best",
    "evaluate": "framework.sweeps.best",
    "Result": "framework.runs.run",
    "Trained": "framework.trained.model_function",
    "sweep": "framework.sweeps.python_api",
    "FrameworkError": "framework.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("framework")
    if name not in _HOMES:
        raise AttributeError(f"module 'framework' has no attribute '{name}'")
    from importlib import import_module

    from framework.startup import seldom_collected

    with seldom_collected():
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
