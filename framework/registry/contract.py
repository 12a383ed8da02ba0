"""The contract of a component, checked when it is built: its class, its attributes, and the calls that it takes."""

from __future__ import annotations

import inspect
from numbers import Integral
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from framework.errors import PLUGIN_FAULTS, PluginError, is_users, told
from framework.registry.entry_points import Plugin
from framework.registry.kinds import KINDS, calls_of


def checked(plugin: Plugin, built: Any, key: str = "") -> Any:
    """Lift a factory's result to its contract, and check that it can be called as the core calls it.

    Raises: PluginError if it cannot.
    """
    kind = KINDS[plugin.kind]
    try:
        if kind.lift is not None:
            built = kind.lift(built, plugin.name)
        functions = {name: arguments for name, arguments, _ in calls_of(kind)}
        missing = [each for each in (*kind.attributes, *functions) if each and _is_missing(built, each)]
        if kind.base and not isinstance(built, resolve_name(kind.base)):
            raise TypeError(f"expected a {kind.base.replace(':', '.')}, found {type(built).__name__}")
        if missing:
            raise TypeError(f"{type(built).__name__} lacks {', '.join(missing)}")
        for name in kind.attributes:
            _check_attribute(name, _attribute(built, name))
        if "name" in kind.attributes and built.name != plugin.name:
            raise TypeError(f"it calls itself '{built.name}'")
        for name, arguments in functions.items():
            _check_call(name or plugin.kind, _attribute(built, name) if name else built, arguments)
    except TypeError as error:
        raise PluginError(f"{plugin.title} breaks its contract: {error}.", key=key) from error
    return built


def _is_missing(built: Any, name: str) -> bool:
    """Tell whether an object lacks a member; one that fails with an AttributeError of its own is there."""
    absent = object()
    return inspect.getattr_static(built, name, absent) is absent and not hasattr(built, name)


def _attribute(built: Any, name: str) -> Any:
    """Read an attribute. Raises: TypeError with the error that a property raises."""
    try:
        return getattr(built, name)
    except PLUGIN_FAULTS as error:
        if is_users(error):
            raise
        raise TypeError(f"{name} fails: {told(error)}") from error


def _check_attribute(name: str, value: Any) -> None:
    """Refuse a value that an attribute of this name cannot have in any kind. Raises: TypeError."""
    least = {"every": 0, "devices": 1}.get(name)
    if least is not None and (isinstance(value, bool) or not isinstance(value, int | Integral) or value < least):
        raise TypeError(f"expected {name} to be an integer of at least {least}, found {value!r}")
    if name in ("source", "name", "place") and not isinstance(value, str):
        raise TypeError(f"expected {name} to be a text, found {value!r}")
    if name == "place" and isinstance(value, str) and (value != Path(value).name or value in ("", "..")):
        raise TypeError(f"expected {name} to be the name of a file or folder, found {value!r}")


def _check_call(name: str, function: Any, arguments: list[str]) -> None:
    """Bind the arguments of a call to a function's signature.

    Raises: TypeError if they do not fit.
    """
    if not callable(function):
        raise TypeError(f"expected a function, found {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C, or of a library that hides it
        return
    by_name = [argument[:-1] for argument in arguments if argument.endswith("=")]
    optional = [argument[:-1] for argument in arguments if argument.endswith("?")]
    by_name += [name for name in optional if name in signature.parameters]
    placed = [argument for argument in arguments if not argument.endswith(("=", "?"))]
    try:
        signature.bind(*placed, **dict.fromkeys(by_name))
    except TypeError as error:
        raise TypeError(f"{name}{signature}: {error}") from error
