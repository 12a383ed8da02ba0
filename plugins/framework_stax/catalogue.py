"""Catalogue of the stock layers of `jax.example_libraries.stax` and the activations of `jax.nn`, by name."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jax.example_libraries import stax

from framework.api import Model, Portion, Size, as_model
from framework_stax import layers as own_layers
from framework_stax.activations import activations, camel_case, lift, options_of
from framework_stax.initializers import Initializer, initializer

Factory = Callable[..., Model]
Ints = tuple[int, ...]
Sizes = tuple[Size, ...]

STOCK_TYPES: Mapping[str, Any] = {
    "out_dim": Size,
    "out_chan": Size,
    "num": Size,
    "filter_shape": Sizes,
    "window_shape": Sizes,
    "strides": Sizes | None,
    "axis": int | Ints,
    "epsilon": float,
    "center": bool,
    "scale": bool,
    "rate": Portion,
    "mode": Literal["train", "test"],
}
"""Types of the stock factories' parameters, by name, since stax does not annotate them."""

CAUTIONS: Mapping[str, str] = {
    "BatchNorm": "It keeps no running averages: evaluation too depends on its batch.",
    "Dropout": "`rate` is the share that is kept, and `mode` is fixed: it needs a key in evaluation too.",
    "MaxPool": "`strides` are 1 unless given.",
    "AvgPool": "`strides` are 1 unless given.",
    "SumPool": "`strides` are 1 unless given.",
}


def layers() -> dict[str, Factory]:
    """Find all layers of stax and all activations of `jax.nn`.

    Returns: factories by name. "stax.Conv" is the stock layer. "Conv" is the same, left out if this package has its
      own. "Gelu" is an activation of `jax.nn`, with its options.
    """
    stock = {name: _stock(name, value) for name, value in vars(stax).items() if name[0].isupper()}
    prefixed = {f"stax.{name}": factory for name, factory in stock.items()}
    plain = {name: factory for name, factory in stock.items() if not hasattr(own_layers, name)}
    lifted = {camel_case(name): _activation(name, function) for name, function in activations().items()}
    return {**prefixed, **plain, **lifted}


def _stock(name: str, value: Any) -> Factory:
    """Return the factory of a stock layer; a constant, such as Relu, gets one without options."""
    if not callable(value):
        return _factory(name, f"Stock layer stax.{name}; it takes no options.", [], lambda: value)
    made_by = value.func if isinstance(value, functools.partial) else value
    parameters = [_parameter(p) for p in inspect.signature(value).parameters.values()]
    first = (inspect.getdoc(made_by) or f"Stock layer stax.{name}.").splitlines()[0]
    return _factory(name, f"{first}\n\n{CAUTIONS.get(name, '')}".strip(), parameters, value)


def _activation(name: str, function: Callable[..., Any]) -> Factory:
    first = (inspect.getdoc(function) or "Activation function.").splitlines()[0]
    first = re.sub(r":math:|`|\\mathrm|[\\{}]", "", first)  # formulas are marked up for web pages

    def build(**options: Any) -> Model:
        return lift(functools.partial(function, **options), camel_case(name))

    return _factory(camel_case(name), f"{first.rstrip('.')} (jax.nn.{name}).", options_of(function), build)


def _factory(name: str, doc: str, parameters: Sequence[inspect.Parameter], build: Callable[..., Any]) -> Factory:
    """Make a factory with the signature, name and docstring that a listing shows."""
    signature = inspect.Signature(list(parameters), return_annotation=Model)

    def factory(*args: Any, **options: Any) -> Model:
        given = signature.bind(*args, **options).arguments
        passed = {key: value for key, value in given.items() if not (_is_init(key) and value is None)}
        return as_model(build(**{key: _value(key, value) for key, value in passed.items()}), name)

    factory.__name__ = factory.__qualname__ = name
    factory.__doc__ = doc
    factory.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    factory.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    return factory


def _parameter(stock: inspect.Parameter) -> inspect.Parameter:
    """Annotate a stock parameter. Initializers are given by name; null keeps the stock one."""
    if _is_init(stock.name):
        return stock.replace(annotation=Initializer | None, default=None)
    return stock.replace(annotation=STOCK_TYPES.get(stock.name, stock.annotation))


def _value(name: str, value: Any) -> Any:
    """Convert an option for a stock layer: lists to tuples, and names of initializers to functions."""
    if _is_init(name):
        return initializer(value)
    return tuple(_value("", each) for each in value) if isinstance(value, list | tuple) else value


def _is_init(parameter: str) -> bool:
    return parameter.endswith("_init")
