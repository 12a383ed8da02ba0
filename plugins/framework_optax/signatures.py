"""Signatures of optax, in the types that a config can hold."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union

import jax.numpy as jnp

from framework.api import Schedule
from framework.errors import ConfigError, nearest

Parameters = Mapping[str, inspect.Parameter]

PLAIN = (bool, int, float, str, type(None))

DECAYS = ("b1", "b2", "b3", "adam_b1", "adam_b2", "betas", "beta3", "rho", "decay", "momentum", "mass")
"""Options that say how much of a running sum or average is kept; from 1 on it never forgets, or grows without end."""

RATES = ("learning_rate", "adam_learning_rate", "value", "init_value", "peak_value", "end_value")
"""Options that are learning rates: of optimizers, and those of schedules that their values begin, peak and end with."""

LIMITS = ("max_norm", "max_delta", "threshold", "clipping", "clipping_threshold", "max_step_size")
"""Options that may be infinite, which is no limit."""

SHARES = ("pct_start", "pct_final")
"""Options that are shares of a run."""

DIVISORS = ("div_factor", "final_div_factor", "decay_rate")
"""Options that a rate is divided by, or multiplied with again and again; at 0 there is none left."""

FROM_ZERO = ("warmup_steps", "transition_begin", "decay_offset", "step_offset")
"""Counts that may be 0. All others are sizes, periods and lengths, from 1."""


def parameters_of(function: Callable[..., Any], annotations: Mapping[str, Any] | None = None) -> Parameters | None:
    """Return a function's parameters with simple annotations, without optional ones that no config can express.

    Args:
      function: a function of optax.
      annotations: annotations by parameter, in place of optax's own.

    Returns: None if the function cannot be called without a parameter that no config can express.
    """
    known = {}
    for name, parameter in inspect.signature(function).parameters.items():
        replaced = (annotations or {}).get(name)
        simple = parameter.replace(annotation=replaced) if replaced is not None else simplify(parameter)
        if simple is not None:
            known[name] = simple
        elif parameter.default is parameter.empty:
            return None
    return known


def simplify(parameter: inspect.Parameter) -> inspect.Parameter | None:
    """Give a parameter a simple annotation and default; None if its values are functions, trees or keys."""
    name, default = parameter.name, parameter.default
    required = default is parameter.empty
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name == "seed":
        return None  # optax's `seed` is the deprecated twin of `key`
    if name == "key":
        return parameter.replace(annotation=int, default=0 if default is None else default)
    if is_mask(name):
        patterns = str | Sequence[str]
        return parameter.replace(
            annotation=patterns if required else patterns | None, default=default if required else None
        )
    if is_dtype(name):
        return parameter.replace(annotation=str | None, default=None if default is None else str(jnp.dtype(default)))
    annotation = _plain(parameter) or _tuple(parameter) or _number(parameter)
    return annotation and parameter.replace(annotation=annotation)


def is_mask(name: str) -> bool:
    """Tell if optax takes a tree of booleans here, or a function that makes one."""
    return name.endswith("mask")


def is_dtype(name: str) -> bool:
    """Tell if optax takes a dtype here."""
    return "dtype" in name


def is_number(annotation: Any) -> bool:
    """Tell if values are real numbers that may be traced, and so belong into the optimizer's state."""
    return float in members(annotation)


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return (annotation,)
    return tuple(inner for member in typing.get_args(annotation) for inner in members(member))


def documented(
    make: Callable[..., Any], name: str, source: Callable[..., Any], parameters: Parameters
) -> Callable[..., Any]:
    """Give `make(**options)` a name, the docstring of its source, and these parameters."""
    make.__name__ = make.__qualname__ = name
    make.__doc__ = inspect.getdoc(source)
    order = sorted(parameters.values(), key=lambda parameter: parameter.kind)
    make.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]
    make.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return make


def complete(label: str, parameters: Parameters, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options, and fill in the defaults.

    Raises: ConfigError for an unknown, missing or mistyped option, or a number that nothing can be trained with.
    """
    for name, value in given.items():
        if name not in parameters:
            raise ConfigError(f"{label} has no option '{name}'.{nearest(str(name), parameters)}")
        if not _accepts(parameters[name].annotation, value):
            expected = inspect.formatannotation(parameters[name].annotation)
            raise ConfigError(f"{label}: {name} should be {expected}, found {value!r} ({type(value).__name__}).")
        _check_range(label, parameters[name], value)
    values = {name: parameter.default for name, parameter in parameters.items()} | dict(given)
    missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise ConfigError(f"{label} needs {' and '.join(missing)}, and nothing sets it.")
    whole = {name for name, value in values.items() if type(value) is int and is_number(parameters[name].annotation)}
    return {name: float(value) if name in whole else value for name, value in values.items()}


def _check_range(label: str, parameter: inspect.Parameter, value: Any) -> None:
    """Refuse numbers outside of their range, such as decays outside [0, 1); traced ones pass.

    A decay whose default is 1 may be 1, as of `scale_by_sm3`.
    """
    name, numbers = parameter.name, list(_numbers(value))
    if any(math.isnan(number) or (math.isinf(number) and name not in LIMITS) for number in numbers):
        expected = "a number" if name in LIMITS else "a finite number"
    elif name in DECAYS and not all(0 <= number < 1 or number == parameter.default for number in numbers):
        expected = "a number from 0 to below 1"
    elif name in RATES and any(number < 0 for number in numbers):
        expected = "a number from 0"
    elif name in SHARES and not all(0 <= number <= 1 for number in numbers):
        expected = "a share of the steps, from 0 to 1"
    elif name in DIVISORS and any(number <= 0 for number in numbers):
        expected = "a number above 0"
    elif parameter.annotation is int and name != "key" and any(number < _least(name) for number in numbers):
        expected = f"a whole number from {_least(name)}"
    else:
        return
    # The option comes first, so that the key that set it is found.
    raise ConfigError(f"{name} of {label} should be {expected}, found {value!r}.")


def _least(name: str) -> int:
    return int(name not in FROM_ZERO)


def _numbers(value: Any) -> Iterator[float]:
    """Yield the plain numbers of a value and of the containers in it."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        yield from _numbers([*value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)


def _plain(parameter: inspect.Parameter) -> Any:
    """Return the annotation itself, if it is made of plain types only."""
    parts = members(parameter.annotation)
    simple = all(part in PLAIN or typing.get_origin(part) in (tuple, Literal) for part in parts)
    nested = [inner for part in parts if typing.get_origin(part) is tuple for inner in typing.get_args(part)]
    return parameter.annotation if simple and all(inner in (*PLAIN, ...) for inner in nested) else None


def _tuple(parameter: inspect.Parameter) -> Any:
    """Return the type of a tuple by its default, since optax annotates such unions of array-likes in several ways."""
    if not isinstance(parameter.default, tuple):
        return None
    floats = all(isinstance(item, float) for item in parameter.default)
    return tuple[float, ...] if floats else tuple[Any, ...]


def _number(parameter: inspect.Parameter) -> Any:
    """Return `int` if the default is one; else float, with None and a schedule if optax takes them.

    Every learning rate takes a schedule, since hyper-parameters are injected at every update.
    """
    parts = members(parameter.annotation)
    is_tree = any(typing.get_origin(part) in (Iterable, Mapping) for part in parts)
    if is_tree or (float not in parts and not isinstance(parameter.default, float)):
        return None
    if type(parameter.default) is int:
        return int
    annotation: Any = float
    if parameter.name == "learning_rate" or any(typing.get_origin(part) is Callable for part in parts):
        annotation = float | Schedule
    return annotation | None if type(None) in parts else annotation


def _accepts(annotation: Any, value: Any) -> bool:
    for part in members(annotation):
        origin = typing.get_origin(part)
        if origin is Literal:
            fits = value in typing.get_args(part)
        elif part is float:
            fits = (isinstance(value, int | float) and not isinstance(value, bool)) or hasattr(value, "dtype")
        elif part is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        elif origin in (tuple, Sequence):
            fits = isinstance(value, list | tuple)
        else:
            fits = callable(value) if part == Schedule else isinstance(value, origin or part)
        if fits:
            return True
    return False
