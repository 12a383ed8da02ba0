"""Signatures of factories: the schema of their options, checked by name and type before a factory is called."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

from framework.contracts.options import Above, Within
from framework.errors import ConfigError, PluginError, nearest

REQUIRED = inspect.Parameter.empty

Build = Callable[[Any, str], Any]
"""`build(value, key) -> component`, from a name or {name: options} in a config."""


PLAIN: dict[type, Any] = {tuple: (list, tuple), list: (list, tuple), Sequence: (list, tuple), dict: Mapping}
"""Types of a value that a config can hold, by annotations that accept more than their own instances."""


class Option(NamedTuple):
    """One parameter of a factory."""

    name: str
    annotation: Any  # REQUIRED when there is none
    default: Any  # REQUIRED when there is none

    @property
    def type_name(self) -> str:
        """The annotation as one would write it."""
        return _describe(self.annotation)


class Schema(NamedTuple):
    """The options that a factory takes."""

    options: tuple[Option, ...]
    open: bool  # takes **options of any name
    variadic: bool  # takes *values


class _Misfit(Exception):  # noqa: N818 - caught in this file
    """A value that an annotation does not accept."""


def schema_of(factory: Callable[..., Any]) -> Schema:
    """Read a factory's signature; one that has none to read is open."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return Schema((), open=True, variadic=True)
    hints = _hints(factory)
    kinds = {parameter.kind for parameter in parameters}
    options = tuple(
        Option(p.name, hints.get(p.name, p.annotation), p.default)
        for p in parameters
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    )
    return Schema(options, inspect.Parameter.VAR_KEYWORD in kinds, inspect.Parameter.VAR_POSITIONAL in kinds)


def bind(schema: Schema, given: Mapping[str, Any], key: str, label: str, builds: Mapping[Any, Build]) -> dict[str, Any]:
    """Check options against a schema.

    Args:
      schema: of the factory to be called.
      given: options by name, as plain values.
      key: the config key that holds them, such as "model".
      label: the component that takes them, such as "model 'mlp' (framework 0.1.0)".
      builds: for each annotation that stands for a component, how to build one from its name.

    Returns: keyword arguments for the factory; lists are tuples, integers floats where a float is annotated.

    Raises:
      ConfigError: an option is unknown, missing or mistyped; with its key and the nearest fix.
      PluginError: an option that must be given is called `name`.
    """
    known = {option.name: option for option in schema.options}
    bound = {}
    for name, value in given.items():
        if name in known:
            bound[name] = check(value, known[name].annotation, f"{key}.{name}", builds)
        elif schema.open:
            bound[name] = freeze(value)
        else:
            raise ConfigError(f"{label} has no option '{name}'.{nearest(str(name), known)}", key=f"{key}.{name}")
    for option in schema.options:
        if option.default is REQUIRED and option.name not in bound:
            if option.name == "name":
                text = f"{label} needs an option 'name', and that key names the component; its author must rename it."
                raise PluginError(text, key=key)
            text = f"{label} needs it ({option.type_name}), and nothing sets it."
            raise ConfigError(text, key=f"{key}.{option.name}")
    return bound


def check(value: Any, annotation: Any, key: str, builds: Mapping[Any, Build]) -> Any:
    """Convert a value to the type that its annotation asks for.

    Raises: ConfigError with the key, the type that was expected and the value that was found.
    """
    try:
        return _convert(value, annotation, key, builds)
    except _Misfit:
        hint = ""
        if isinstance(value, str) and typing.get_origin(annotation) is Literal:
            hint = nearest(value, [str(choice) for choice in typing.get_args(annotation)])
        elif isinstance(value, int | float) and str in (annotation, *typing.get_args(annotation)):
            hint = f""" Quoted twice it is a text: {key}="'{value}'"."""
        text = f"expected {_describe(annotation)}, found {value!r} ({type(value).__name__}).{hint}"
        raise ConfigError(text, key=key) from None


def freeze(value: Any) -> Any:
    """Turn lists into tuples, all the way down, as stax and optax expect them."""
    if isinstance(value, Mapping):
        return {name: freeze(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def is_component(annotation: Any, builds: Mapping[Any, Any]) -> bool:
    """Tell an annotation that stands for a component, which a config names and `builds` makes."""
    try:
        return annotation in builds
    except TypeError:  # an annotation that cannot be hashed is nobody's component
        return False


def _convert(value: Any, annotation: Any, key: str, builds: Mapping[Any, Build]) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if is_component(annotation, builds):
        if isinstance(value, str | Mapping):
            return builds[annotation](value, key)
        return _fitting(value, callable(value) or isinstance(value, tuple))
    if annotation in (REQUIRED, Any, object):
        return freeze(value)
    if origin is None:
        return _convert_plain(value, annotation)
    if origin is typing.Annotated:
        converted = _convert(value, arguments[0], key, builds)
        return _fitting(converted, all(_is_within(converted, each) for each in arguments[1:]))
    if origin is Literal:
        # True == 1 in Python; a config that says `true` where 1 is a choice is a mistake.
        return _fitting(value, any(value == choice and type(value) is type(choice) for choice in arguments))
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, key, builds)
    if issubclass(origin, Mapping):
        each = arguments[1] if len(arguments) == 2 else Any
        items = _fitting(value, isinstance(value, Mapping)).items()
        return {name: check(item, each, f"{key}.{name}", builds) for name, item in items}
    if issubclass(origin, Sequence):
        length = len(_fitting(value, isinstance(value, list | tuple)))
        is_fixed = origin is tuple and arguments[-1:] != (...,)
        pairs = zip(value, arguments if is_fixed else arguments[:1] * length, strict=False)
        _fitting(value, not is_fixed or length == len(arguments))
        return tuple(check(item, each, f"{key}[{i}]", builds) for i, (item, each) in enumerate(pairs))
    return _fitting(value, callable(value))


def _is_within(value: Any, limits: Any) -> bool:
    """Compare a number with a range; a traced one, and other values and metadata, pass."""
    return value in limits if isinstance(limits, Within | Above) and isinstance(value, int | float) else True


def _fitting(value: Any, fits: bool) -> Any:
    if not fits:
        raise _Misfit
    return value


def _convert_plain(value: Any, annotation: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int and is_number and (isinstance(value, int) or value.is_integer()):
        return int(value)
    if annotation is float and is_number and abs(value) < 1 << 1023:
        return float(value)
    if annotation is float:
        is_nan = isinstance(value, float) and math.isnan(value)
        is_other = isinstance(value, float) or hasattr(value, "dtype")  # an infinity or a traced value
        return _fitting(value, is_other and not is_nan)
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if annotation is None or not isinstance(annotation, type):
        return _fitting(value, annotation is not None or value is None)
    accepted = PLAIN.get(annotation, annotation)
    return freeze(_fitting(value, annotation is not int and isinstance(value, accepted)))


def _convert_union(value: Any, arguments: tuple[Any, ...], key: str, builds: Mapping[Any, Build]) -> Any:
    """Convert to the first member that fits; the type that a value has already comes first: 1.0 is no int then."""
    refusals: list[Exception] = []
    for argument in sorted(arguments, key=lambda argument: type(value) is not argument):
        try:
            return _convert(value, argument, key, builds)
        except _Misfit:
            continue
        except ConfigError as error:  # about a part of the value, such as an item of a list
            refusals.append(error)
    raise refusals[0] if refusals else _Misfit


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Resolve annotations, also those of a class, a partial and a callable object, as far as they can be."""
    hints: dict[str, Any] = {}
    for each in (factory, getattr(factory, "__init__", None), getattr(factory, "func", None), type(factory).__call__):
        function: Any = inspect.unwrap(each) if callable(each) else each
        module = sys.modules.get(getattr(function, "__module__", None) or "")
        names = getattr(function, "__globals__", None) or getattr(module, "__dict__", {})
        for name, annotation in getattr(function, "__annotations__", {}).items():
            with contextlib.suppress(Exception):  # a name may be imported for type checkers alone
                alone = types.SimpleNamespace(__annotations__={name: annotation})
                hints |= typing.get_type_hints(alone, names, include_extras=True)
    return hints


def _describe(annotation: Any) -> str:
    if annotation is REQUIRED:
        return "any"
    if typing.get_origin(annotation) is typing.Annotated:
        kind, *metadata = typing.get_args(annotation)
        return " ".join([_describe(kind), *(str(each) for each in metadata if isinstance(each, Within | Above))])
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(argument) for argument in typing.get_args(annotation)))
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return "null" if annotation is type(None) else annotation.__name__.rpartition(".")[2]
    if typing.get_origin(annotation) is Callable:
        return "function"
    text = re.sub(r"Annotated\[(\w+), \w+\([^()]*\)\]", r"\1", str(annotation))  # tuple[int, ...] of sizes
    return re.sub(r"\w+\.(?=\w)", "", text)  # Sequence[Model], without the modules
