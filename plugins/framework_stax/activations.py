"""Layers of the activation functions of `jax.nn`, found by their signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from framework.api import Array, Model, Shape, as_model
from framework.errors import ConfigError, nearest
from framework_stax.smooth import gelu
from framework_stax.tiles import examplewise

Activation = Callable[..., Array]


def activations() -> dict[str, Activation]:
    """Return the functions of `jax.nn` that need one array and keep its rank, by name: relu, gelu, glu, softmax, …

    `gelu` is our own: the same values, with a derivative that is quick on a CPU.
    """
    found = {name: value for name, value in vars(jax.nn).items() if name[0] != "_" and _is_activation(value)}
    return {**found, "gelu": gelu}


def activation_layer(name: str) -> Model:
    """Make a layer of the activation with this name in `jax.nn`, such as "relu".

    Raises: ConfigError if `jax.nn` has no activation of that name.
    """
    known = activations()
    if name not in known:
        raise ConfigError(f"no activation is named '{name}'.{nearest(name, known)}")
    return lift(known[name], camel_case(name))


def lift(function: Activation, name: str) -> Model:
    """Make a layer without parameters from a function of one array [B, ...]."""

    def init(key: Array, in_shape: Shape) -> tuple[Shape, tuple[()]]:
        one = jax.ShapeDtypeStruct((1, *in_shape[1:]), jnp.float32)
        return (in_shape[0], *jax.eval_shape(function, one).shape[1:]), ()

    def apply(params: tuple[()], inputs: Array) -> Array:
        return function(inputs)

    model = as_model((init, apply), name)
    return model if "axis" in inspect.signature(function).parameters else examplewise(model)


def options_of(function: Activation) -> list[inspect.Parameter]:
    """Return the parameters besides the array that a config can set: flags, numbers and the axis."""
    kept = [p for p in inspect.signature(function).parameters.values() if isinstance(p.default, bool | int | float)]
    return [inspect.Parameter(p.name, p.POSITIONAL_OR_KEYWORD, default=p.default, annotation=_type_of(p)) for p in kept]


def camel_case(name: str) -> str:
    """Turn "leaky_relu" into "LeakyRelu", as stax writes layers."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _is_activation(value: object) -> bool:
    try:
        first, *others = inspect.signature(value).parameters.values()  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return (
        first.name == "x"
        and all(p.default is not p.empty for p in others)
        and not any(p.name == "keepdims" for p in others)  # a reduction, such as logmeanexp
    )


def _type_of(parameter: inspect.Parameter) -> type:
    if isinstance(parameter.default, bool):
        return bool
    return int if parameter.name == "axis" else float
