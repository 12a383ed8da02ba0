"""A factory's signature as the schema of its options: which values an annotation accepts, and what they become."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import jax.numpy as jnp
import numpy as np
import pytest

from framework.api import Fraction, Portion, Size, Within
from framework.errors import ConfigError
from framework.registry.signatures import REQUIRED, bind, check, freeze, schema_of

if typing.TYPE_CHECKING:
    from nowhere import Missing

NAN = float("nan")


class Part(NamedTuple):
    """Stands for a component; `BUILDS` knows how to build one."""

    name: str


def build_part(value: Any, key: str) -> Part:
    if value == "wrong":
        raise ConfigError("no part is named 'wrong'.", key=key)
    return Part(value if isinstance(value, str) else str(dict(value)))


Rate = Callable[[Part], Part]
BUILDS = {Part: build_part, Rate: lambda value, key: ("rate", value)}

ACCEPTED = [
    (int, 3, 3),
    (int, -3, -3),
    (int, 3.0, 3),
    (int, 1e6, 1_000_000),
    (float, 1, 1.0),
    (float, 1.5, 1.5),
    (float, float("inf"), float("inf")),
    (float, np.float32(0.5), 0.5),
    (bool, True, True),
    (str, "relu", "relu"),
    (str, "", ""),
    (None, None, None),
    (type(None), None, None),
    (Any, [1, [2, {"a": [3]}]], (1, (2, {"a": (3,)}))),
    (object, [1], (1,)),
    (REQUIRED, [1, 2], (1, 2)),
    (int | None, None, None),
    (int | None, 3, 3),
    (int | None, 3.0, 3),
    (Optional[float], 1, 1.0),  # noqa: UP045
    (Union[int, str], "3", "3"),  # noqa: UP007
    (int | float, 1.0, 1.0),
    (int | float, 1, 1),
    (float | int, 1, 1),
    (float | int, 1.0, 1.0),
    (bool | int, 1, 1),
    (int | bool, True, True),
    (float | bool, True, True),
    (int | str | None, "3", "3"),
    (Literal["a", "b"], "a", "a"),
    (Literal[1, 2], 2, 2),
    (Literal["a", None], None, None),
    (Literal["a"] | int, 3, 3),
    (Literal[True] | int, 1, 1),
    (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (tuple[int, ...], [], ()),
    (tuple[int, ...], (1, 2.0), (1, 2)),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[()], [], ()),
    (tuple, [1, [2]], (1, (2,))),
    (list, [1, [2]], (1, (2,))),
    (list[float], [1, 2], (1.0, 2.0)),
    (Sequence[str], ["a", "b"], ("a", "b")),
    (Sequence[Any], [1, ["a"]], (1, ("a",))),
    (Sequence, ["a"], ("a",)),
    (tuple[tuple[int, ...], ...], [[1, 2], []], ((1, 2), ())),
    (Mapping[str, int], {"a": 1.0}, {"a": 1}),
    (Mapping[str, Any], {"a": [1, {"b": [2]}]}, {"a": (1, {"b": (2,)})}),
    (Mapping, {"a": [1]}, {"a": (1,)}),
    (dict, {}, {}),
    (dict[str, tuple[float, ...]], {"a": [1]}, {"a": (1.0,)}),
    (Sequence[Mapping[str, int]], [{"a": 1}, {}], ({"a": 1}, {})),
    (tuple[int, ...] | int, 3, 3),
    (tuple[int, ...] | int, [3], (3,)),
    (tuple[int, ...] | tuple[str, ...], ["a", "b"], ("a", "b")),
    (Mapping[str, int] | Mapping[str, str], {"a": "b"}, {"a": "b"}),
    (Path, "data/x.npz", Path("data/x.npz")),
    (Path, Path("x"), Path("x")),
    (Path | None, "x", Path("x")),
    (str | Path, "x", "x"),
    (Callable, len, len),
    (typing.Callable, len, len),
    (Callable[[int], int], len, len),
    (float | Callable[[int], float], len, len),
    (Annotated[int, "of layers"], 3.0, 3),
    (Size, 1.0, 1),
    (Size | None, None, None),
    (tuple[Size, ...], [1, 2], (1, 2)),
    (Fraction, 0, 0.0),
    (Portion, 1, 1.0),
    (Fraction | Rate, len, len),
    (Annotated[str, Within(1)], "a", "a"),
    (Part, "dense", Part("dense")),
    (Part, {"dense": 3}, Part("{'dense': 3}")),
    (Part, Part("built"), Part("built")),
    (Part | None, None, None),
    (Part | None, "dense", Part("dense")),
    (Part | str, "dense", "dense"),
    (Part | Literal["wrong"], "wrong", "wrong"),
    (Sequence[Part], ["a", {"b": 1}], (Part("a"), Part("{'b': 1}"))),
    (Mapping[str, Part], {"x": "a"}, {"x": Part("a")}),
    (float | Rate, 0.1, 0.1),
    (float | Rate, "cosine", ("rate", "cosine")),
    (float | Rate, len, len),
    ("an annotation that nothing resolves", [1], [1]),
]

REFUSED = [
    (int, True, "k: expected int, found True (bool)."),
    (int, 3.5, "k: expected int, found 3.5 (float)."),
    (int, NAN, "k: expected int, found nan (float)."),
    (int, float("inf"), "k: expected int, found inf (float)."),
    (int, "3", "k: expected int, found '3' (str)."),
    (int, None, "k: expected int, found None (NoneType)."),
    (int, [3], "k: expected int, found [3] (list)."),
    (float, NAN, "k: expected float, found nan (float)."),
    (float | None, NAN, "k: expected float or null, found nan (float)."),
    (float | Rate, NAN, "k: expected float or function, found nan (float)."),
    (float, False, "k: expected float, found False (bool)."),
    (float, "1e-3", "k: expected float, found '1e-3' (str)."),
    (float, None, "k: expected float, found None (NoneType)."),
    (bool, 1, "k: expected bool, found 1 (int)."),
    (bool, "true", "k: expected bool, found 'true' (str)."),
    (str, 3, """k: expected str, found 3 (int). Quoted twice it is a text: k="'3'"."""),
    (str | None, 2.5, """k: expected str or null, found 2.5 (float). Quoted twice it is a text: k="'2.5'"."""),
    (str, None, "k: expected str, found None (NoneType)."),
    (type(None), 0, "k: expected null, found 0 (int)."),
    (int | None, "x", "k: expected int or null, found 'x' (str)."),
    (int | float, True, "k: expected int or float, found True (bool)."),
    (Union[int, str], [1], "k: expected int or str, found [1] (list)."),  # noqa: UP007
    (Literal["valid", "same"], "sme", "expected one of 'valid', 'same', found 'sme' (str). Did you mean 'same'?"),
    (Literal["valid", "same"], 3, "k: expected one of 'valid', 'same', found 3 (int)."),
    (Literal[1, 2], True, "k: expected one of 1, 2, found True (bool)."),
    (Literal["a", "b"] | None, "c", "k: expected one of 'a', 'b' or null, found 'c' (str)."),
    (tuple[int, ...], 3, "k: expected tuple[int, ...], found 3 (int)."),
    (tuple[int, ...], "ab", "k: expected tuple[int, ...], found 'ab' (str)."),
    (tuple[int, ...], [1, "b"], "k[1]: expected int, found 'b' (str)."),
    (tuple[int, ...], [1, True], "k[1]: expected int, found True (bool)."),
    (tuple[int, str], [1], "k: expected tuple[int, str], found [1] (list)."),
    (tuple[int, str], ["a", 1], "k[0]: expected int, found 'a' (str)."),
    (tuple[tuple[int, ...], ...], [[1], [2, None]], "k[1][1]: expected int, found None (NoneType)."),
    (tuple[int, ...] | None, [1, "b"], "k[1]: expected int, found 'b' (str)."),
    (tuple[int, ...] | int, "b", "k: expected tuple[int, ...] or int, found 'b' (str)."),
    (Sequence[str], "ab", "k: expected Sequence[str], found 'ab' (str)."),
    (Sequence[str], {"a": 1}, "k: expected Sequence[str], found {'a': 1} (dict)."),
    (tuple, 1, "k: expected tuple, found 1 (int)."),
    (Mapping[str, int], [1], "k: expected Mapping[str, int], found [1] (list)."),
    (Mapping[str, int], {"a": "b"}, "k.a: expected int, found 'b' (str)."),
    (Mapping[str, Mapping[str, int]], {"a": {"b": None}}, "k.a.b: expected int, found None (NoneType)."),
    (dict, [1], "k: expected dict, found [1] (list)."),
    (Path, 3, "k: expected Path, found 3 (int)."),
    (Callable[[int], int], "relu", "k: expected function, found 'relu' (str)."),
    (Callable, 3, "k: expected Callable, found 3 (int)."),
    (Annotated[int, "of layers"], "x", "k: expected int, found 'x' (str)."),
    (Size, 0, "k: expected int from 1, found 0 (int)."),
    (Size, "x", "k: expected int from 1, found 'x' (str)."),
    (Size | None, -1, "k: expected int from 1 or null, found -1 (int)."),
    (tuple[Size, ...], [8, 0], "k[1]: expected int from 1, found 0 (int)."),
    (tuple[Size, ...], 8, "k: expected tuple[int, ...], found 8 (int)."),
    (tuple[Size, ...] | None, [0], "k[0]: expected int from 1, found 0 (int)."),
    (Mapping[str, Size], {"a": 0}, "k.a: expected int from 1, found 0 (int)."),
    (Fraction, 1, "k: expected float from 0 to below 1, found 1 (int)."),
    (Fraction, -0.1, "k: expected float from 0 to below 1, found -0.1 (float)."),
    (Portion, 0, "k: expected float above 0 to 1, found 0 (int)."),
    (Portion, 1.5, "k: expected float above 0 to 1, found 1.5 (float)."),
    (Fraction, NAN, "k: expected float from 0 to below 1, found nan (float)."),
    (Fraction | Rate, 1.5, "k: expected float from 0 to below 1 or function, found 1.5 (float)."),
    (Part, 3, "k: expected Part, found 3 (int)."),
    (Part, "wrong", "k: no part is named 'wrong'."),
    (Part | None, "wrong", "k: no part is named 'wrong'."),
    (Sequence[Part], ["a", "wrong"], "k[1]: no part is named 'wrong'."),
    (Sequence[Part], ["a", ["b"]], "k[1]: expected Part, found ['b'] (list)."),
    (Mapping[str, Part], {"x": "wrong"}, "k.x: no part is named 'wrong'."),
    (float | Rate, None, "k: expected float or function, found None (NoneType)."),
]


def label(case: Any) -> str:
    return str(case).replace("typing.", "")[:40]


@pytest.mark.parametrize(("annotation", "value", "expected"), ACCEPTED, ids=label)
def test_an_annotation_accepts_and_converts(annotation, value, expected):
    result = check(value, annotation, "k", BUILDS)
    assert result == expected
    assert type(result) is type(expected) or isinstance(value, np.generic)


@pytest.mark.parametrize(("annotation", "value", "text"), REFUSED, ids=label)
def test_an_annotation_refuses_in_one_line(annotation, value, text):
    with pytest.raises(ConfigError) as raised:
        check(value, annotation, "k", BUILDS)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_traced_value_passes_as_a_float():
    value = jnp.ones([])
    assert check(value, float, "k", {}) is value
    assert check(2 * value, Fraction, "k", {}) is not None


def test_a_literal_of_numbers_keeps_its_type():
    assert type(check(1, Literal[1, True], "k", {})) is int
    assert type(check(True, Literal[1, True], "k", {})) is bool


@pytest.mark.parametrize("value", [3, "a", None, (1, 2), {"a": (1,)}])
def test_freezing_what_is_frozen_changes_nothing(value):
    assert freeze(value) == value
    assert freeze(freeze([value, [value]])) == freeze([value, [value]])


def dense(width: int, rate: float = 0.5, names: tuple[str, ...] = (), *, bias: bool = True, part: Part | None = None):
    """A factory whose annotations are strings, as in every module that postpones them."""


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        ({"width": 3}, {"width": 3}),
        ({"width": 3.0, "rate": 1}, {"width": 3, "rate": 1.0}),
        ({"width": 3, "names": ["a"]}, {"width": 3, "names": ("a",)}),
        ({"bias": False, "width": 1}, {"bias": False, "width": 1}),
        ({"width": 1, "part": "x"}, {"width": 1, "part": Part("x")}),
    ],
)
def test_binding_converts_and_leaves_defaults_to_the_factory(given, bound):
    assert bind(schema_of(dense), given, "model", "layer 'dense' (acme 1.0)", BUILDS) == bound


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"widht": 3}, "model.widht: layer 'dense' (acme 1.0) has no option 'widht'. Did you mean 'width'? Known: "),
        ({"width": 3, "Bias": 1}, "model.Bias: layer 'dense' (acme 1.0) has no option 'Bias'. Did you mean 'bias'?"),
        ({"width": 3, 7: 1}, "model.7: layer 'dense' (acme 1.0) has no option '7'. Known: bias, names, part, rate, "),
        ({}, "model.width: layer 'dense' (acme 1.0) needs it (int), and nothing sets it."),
        ({"rate": 0.1}, "model.width: layer 'dense' (acme 1.0) needs it (int), and nothing sets it."),
        ({"width": "3"}, "model.width: expected int, found '3' (str)."),
        ({"width": 3, "names": ["a", 1]}, "model.names[1]: expected str, found 1 (int)."),
        ({"width": 3, "part": "wrong"}, "model.part: no part is named 'wrong'."),
    ],
)
def test_binding_names_the_key_of_an_unknown_missing_or_mistyped_option(given, text):
    with pytest.raises(ConfigError) as raised:
        bind(schema_of(dense), given, "model", "layer 'dense' (acme 1.0)", BUILDS)
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)


class Layer:
    """A class whose attribute has the name of an option, and another type."""

    width: str = ""

    def __init__(self, width: int, path: Path | None = None) -> None: ...


@dataclasses.dataclass
class Record:
    """A dataclass as a factory."""

    width: int
    path: Path | None = None


class Row(NamedTuple):
    """A NamedTuple as a factory."""

    width: int
    path: Path | None = None


class Caller:
    """An object that can be called."""

    def __call__(self, width: int, path: Path | None = None) -> None: ...


def plain(width: int, path: Path | None = None): ...


def unresolvable(width: int, path: Path | None = None, other: Missing | None = None): ...


def three(first: str, width: int, path: Path | None = None): ...


@functools.wraps(plain)
def wrapped(*args, **kwargs): ...


FACTORIES = {
    "a function": plain,
    "a class": Layer,
    "a dataclass": Record,
    "a NamedTuple": Row,
    "a callable object": Caller(),
    "a partial": functools.partial(three, "first"),
    "a decorated function": wrapped,
    "a method": Caller().__call__,
    "an annotation for type checkers alone": unresolvable,
}


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_kind_of_factory_has_its_annotations_resolved(factory):
    schema = schema_of(FACTORIES[factory])
    assert [(o.name, o.annotation, o.default) for o in schema.options[:2]] == [
        ("width", int, REQUIRED),
        ("path", Path | None, None),
    ]
    assert not schema.open
    assert not schema.variadic


def test_what_cannot_be_resolved_takes_anything():
    schema = schema_of(unresolvable)
    assert bind(schema, {"width": 1, "other": [2]}, "k", "x", {})["other"] == [2]


@pytest.mark.parametrize(
    ("factory", "is_open", "is_variadic"),
    [
        (lambda *layers: None, False, True),
        (lambda **options: None, True, False),
        (lambda *layers, **options: None, True, True),
        (lambda width: None, False, False),
        (dict, True, True),  # has no signature to read
    ],
)
def test_a_factory_of_any_options_is_open(factory, is_open, is_variadic):
    schema = schema_of(factory)
    assert (schema.open, schema.variadic) == (is_open, is_variadic)
    if is_open:
        assert bind(schema, {"anything": [1, [2]]}, "k", "x", {}) == {"anything": (1, (2,))}


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (int | None, "int or null"),
        (Optional[Path], "Path or null"),  # noqa: UP045
        (Literal["a", 1], "one of 'a', 1"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Mapping[str, Any], "Mapping[str, Any]"),
        (Callable[[int], int], "function"),
        (Callable[[int], int] | Callable[[str], str] | None, "function or null"),
        (Iterable[int] | str, "Iterable[int] or str"),
        (Part, "Part"),
        (Sequence[Part], "Sequence[Part]"),
        (Mapping[str, Sequence[Path]], "Mapping[str, Sequence[Path]]"),
        (int | np.integer | np.ndarray, "int or integer or ndarray"),
        (REQUIRED, "any"),
    ],
)
def test_a_type_is_described_as_one_would_write_it(annotation, text):
    factory = lambda option: None  # noqa: E731
    factory.__annotations__ = {} if annotation is REQUIRED else {"option": annotation}
    (option,) = schema_of(factory).options
    assert option.type_name == text
