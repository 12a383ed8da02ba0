"""Initial weights by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jax.nn import initializers

from framework.api import Array
from framework.errors import ConfigError, nearest

Initializer = str | Callable[..., Any]
"""Name of an initializer of `jax.nn.initializers`, with its default options, or `init(key, shape) -> array`."""


def initializer(chosen: Initializer) -> Callable[..., Array]:
    """Find an initializer by name; a function passes as it is.

    Raises: ConfigError if `jax.nn.initializers` has none of that name, or only one that needs arguments.
    """
    if callable(chosen):
        return chosen
    found = getattr(initializers, chosen, None) if chosen in _names() else None
    if found is None:
        raise ConfigError(f"no initializer is named '{chosen}'.{nearest(chosen, _names())}")
    return found if _is_direct(found) else found()


def _names() -> list[str]:
    """Names of the initializers that need no arguments."""
    functions = {name: value for name, value in vars(initializers).items() if inspect.isfunction(value)}
    return [name for name, value in functions.items() if name[0] != "_" and (_is_direct(value) or _is_optional(value))]


def _is_direct(function: Callable[..., object]) -> bool:
    """Tell an initializer, such as `zeros`, from the maker of one, such as `he_normal`."""
    return next(iter(inspect.signature(function).parameters), "") == "key"


def _is_optional(function: Callable[..., object]) -> bool:
    return all(p.default is not p.empty for p in inspect.signature(function).parameters.values())
