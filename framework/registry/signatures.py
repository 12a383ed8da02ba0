"""A factory's signature is the schema of its options: checked by name and type before it is called."""

from __future__ import annotations

import contextlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

from framework.errors import ConfigError, nearest

REQUIRED = inspect.Parameter.empty

Build = Callable[[Any, str], Any]
"""`build(value, key) -> component`, from a name or {name: options} in a config."""


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
    """What a factory takes."""

    options: tuple[Option, ...]
    open: bool  # takes **options of any name
    variadic: bool  # takes *values


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
      label: who takes them, such as "model 'mlp' (framework 0.1.0)".
      builds: for each annotation that stands for a component, how to build one from its name.

    Returns: keyword arguments for the factory; lists are tuples, integers floats where a float is annotated.

    Raises: ConfigError for an unknown, missing or mistyped option, naming its key and the nearest fix.
    """
    known = {option.name: option for option in schema.options}
    bound = {}
    for name, value in given.items():
        if name in known:
            bound[name] = check(value, known[name].annotation, f"{key}.{name}", builds)
        elif schema.open:
            bound[name] = freeze(value)
        else:
            raise ConfigError(f"{key}.{name}: {label} has no option '{name}'.{nearest(str(name), known)}")
    for option in schema.options:
        if option.default is REQUIRED and option.name not in bound:
            raise ConfigError(f"{key}.{option.name}: {label} needs it ({option.type_name}), and nothing sets it.")
    return bound


def check(value: Any, annotation: Any, key: str, builds: Mapping[Any, Build]) -> Any:
    """Return a value as its annotation wants it.

    Raises: ConfigError naming the key, the type that was expected and what was found.
    """
    accepted, result = _convert(value, annotation, key, builds)
    if accepted:
        return result
    hint = ""
    if isinstance(value, str) and typing.get_origin(annotation) is Literal:
        hint = nearest(value, [str(choice) for choice in typing.get_args(annotation)])
    elif isinstance(value, int | float) and str in (annotation, *typing.get_args(annotation)):
        hint = f""" Quoted twice it is a text: {key}="'{value}'"."""
    raise ConfigError(f"{key}: expected {_describe(annotation)}, found {value!r} ({type(value).__name__}).{hint}")


def freeze(value: Any) -> Any:
    """Lists as tuples, all the way down, as stax and optax expect them."""
    if isinstance(value, Mapping):
        return {name: freeze(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def _convert(value: Any, annotation: Any, key: str, builds: Mapping[Any, Build]) -> tuple[bool, Any]:
    """Whether an annotation accepts a value, and the value as it wants it."""
    if is_component(annotation, builds):
        plain = isinstance(value, str | Mapping)
        return (True, builds[annotation](value, key)) if plain else (callable(value) or isinstance(value, tuple), value)
    if annotation in (REQUIRED, Any, object):
        return True, freeze(value)
    if annotation in (None, type(None)):
        return value is None, None
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return _convert_plain(value, annotation)
    return _convert_generic(value, annotation, key, builds)


def _convert_plain(value: Any, annotation: type) -> tuple[bool, Any]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        whole = is_number and (isinstance(value, int) or value.is_integer())
        return whole, int(value) if whole else value
    if annotation is float:
        if is_number and abs(value) < 1 << 1023:
            return True, float(value)
        return isinstance(value, float) or hasattr(value, "dtype"), value  # infinities and traced values pass
    if annotation in (tuple, list, Sequence):
        return isinstance(value, list | tuple), freeze(value)
    if annotation in (dict, Mapping):
        return isinstance(value, Mapping), freeze(value)
    if annotation is Path:
        return isinstance(value, str | Path), Path(value) if isinstance(value, str) else value
    return isinstance(value, annotation), value


def _convert_generic(value: Any, annotation: Any, key: str, builds: Mapping[Any, Build]) -> tuple[bool, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _convert(value, arguments[0], key, builds)
    if origin is Literal:
        # True == 1 in Python; a config that says `true` where 1 is a choice is a mistake.
        return any(value == choice and type(value) is type(choice) for choice in arguments), value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, key, builds)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(value, arguments, key, builds)
    if origin is tuple and arguments[-1:] != (...,):
        fits = isinstance(value, list | tuple) and len(value) == len(arguments)
        pairs = zip(value, arguments, strict=True) if fits else ()
        return fits, tuple(check(item, each, f"{key}[{i}]", builds) for i, (item, each) in enumerate(pairs))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        fits = isinstance(value, list | tuple)
        items = enumerate(value) if fits else ()
        return fits, tuple(check(item, arguments[0], f"{key}[{i}]", builds) for i, item in items)
    return (callable(value) if origin is not None else True), value


def _convert_union(value: Any, arguments: tuple[Any, ...], key: str, builds: Mapping[Any, Build]) -> tuple[bool, Any]:
    """What the first fitting member makes of a value; the type it has already comes first: 1.0 is no int then."""
    refusals: list[ConfigError] = []
    for argument in sorted(arguments, key=lambda argument: type(value) is not argument):
        try:
            accepted, result = _convert(value, argument, key, builds)
        except ConfigError as error:  # about a part of the value, such as an item of a list
            refusals.append(error)
            continue
        if accepted:
            return True, result
    if refusals:
        raise refusals[0]
    return False, value


def _convert_mapping(value: Any, arguments: tuple[Any, ...], key: str, builds: Mapping[Any, Build]) -> tuple[bool, Any]:
    if not isinstance(value, Mapping):
        return False, value
    each = arguments[1] if len(arguments) == 2 else Any
    return True, {name: check(item, each, f"{key}.{name}", builds) for name, item in value.items()}


def is_component(annotation: Any, builds: Mapping[Any, Any]) -> bool:
    """Whether an annotation stands for a component, which a config names and `builds` makes."""
    try:
        return annotation in builds
    except TypeError:  # an annotation that cannot be hashed is nobody's component
        return False


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Annotations with strings resolved, also those of a class, a partial and a callable object."""
    functions = (factory, getattr(factory, "__init__", None), getattr(factory, "func", None), type(factory).__call__)
    hints: dict[str, Any] = {}
    for function in functions:
        try:
            hints |= typing.get_type_hints(function)
        except Exception:  # some name is imported for type checkers alone, or the function has no annotations
            hints |= _resolvable(function)
    return hints


def _resolvable(function: Any) -> dict[str, Any]:
    """The annotations that can be resolved, where not all can."""
    names = getattr(inspect.unwrap(function), "__globals__", {})
    hints = {}
    for parameter, annotation in getattr(function, "__annotations__", {}).items():
        with contextlib.suppress(Exception):
            alone = types.SimpleNamespace(__annotations__={parameter: annotation})
            hints |= typing.get_type_hints(alone, names)
    return hints


def _describe(annotation: Any) -> str:
    if annotation is REQUIRED:
        return "any"
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(argument) for argument in typing.get_args(annotation)))
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return "null" if annotation is type(None) else annotation.__name__.rpartition(".")[2]
    if typing.get_origin(annotation) is Callable:
        return "function"
    return re.sub(r"\w+\.(?=\w)", "", str(annotation))  # Sequence[Model], without the modules
