"""Layers of a stack: their names, in the compiler's programs and in errors, and the layers of a stock stax stack."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from framework.contracts.components import Array, Model, Shape
from framework.errors import ConfigError
from framework.observing import observed, scope
from framework.trees import PyTree

STAX = "jax.example_libraries.stax"

MISFITS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, ZeroDivisionError, ConfigError)
"""Errors that layers raise on inputs that do not fit. FloatingPointError is left out: `jax_debug_nans` raises it."""

Pair = tuple[Callable[..., Any], Callable[..., Any]]
"""A stax pair `(init_fun(key, shape) -> (shape, params), apply_fun(params, inputs, **options))`."""


class LayerError(ConfigError):
    """Error of a layer that cannot take its inputs.

    Attributes:
      path: position and name of the layer, and of the stacks around it, such as "1_serial/0_Conv".
      shape: of the layer's inputs.
      cause: the message of the layer, in one line.
    """

    path: str = ""
    shape: Shape = ()
    cause: str = ""


@contextmanager
def fitting(name: str, shape: Shape) -> Iterator[None]:
    """Add a layer and the shape of its inputs to the error that it raises.

    Raises: LayerError.
    """
    try:
        yield
    except LayerError as error:
        raise _layer_error(f"{name}/{error.path}", error.shape, error.cause) from error.__cause__
    except MISFITS as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        lines = str(error).strip().splitlines() or ["no message"]
        raise _layer_error(name, shape, f"{kind}{lines[0]}") from error


def layer_name(model: Model) -> str:
    """Return the factory's name, read from the qualified name of its `init`: "Conv" for `Conv.<locals>.init`."""
    return getattr(model.init, "__qualname__", type(model.init).__name__).split(".")[0]


def name_of(layer: Any) -> str:
    """Return the name of a layer's factory, such as "Conv", or of a stock constant, such as "Relu"; else "Layer".

    Args:
      layer: a `Model` or a stax pair.
    """
    if isinstance(layer, Model):
        name = layer_name(layer)
    else:
        constants = (name for name, value in vars(sys.modules.get(STAX, object)).items() if value == layer)
        # The innermost function around the pair: "PoolingLayer" for stock MaxPool, "GeneralConv" for stock Conv.
        around = getattr(layer[0], "__qualname__", "").split(".<locals>")[:-1]
        name = next(constants, around[-1].strip(".") if around else "")
    return name if name.isidentifier() and name not in ("init", "init_fun") else "Layer"


def opened(pair: Pair) -> Pair:
    """Return a pair whose layers have names, if it is a stack of stock stax: `serial`, `parallel` or `shape_dependent`.

    The layers are read from the closures of the pair, and handed to the same function of stax again, so that
    parameters, keys and numbers stay what they are. Any other pair is returned as it is.
    """
    init_fun, apply_fun = pair
    kind = str(getattr(apply_fun, "__qualname__", "")).partition(".")[0]
    is_stock = all(inspect.isfunction(each) and each.__module__ == STAX for each in pair)
    if not is_stock or kind not in ("serial", "parallel", "shape_dependent"):
        return pair
    combine = getattr(sys.modules[STAX], kind)
    made, applied = inspect.getclosurevars(init_fun).nonlocals, inspect.getclosurevars(apply_fun).nonlocals
    if "make_layer" in made:
        return combine(lambda shape: opened(made["make_layer"](shape)))
    if "init_funs" not in made or "apply_funs" not in applied:  # of another version of the library
        return pair
    layers = zip(made["init_funs"], applied["apply_funs"], strict=True)
    return combine(*(_named(position, layer) for position, layer in enumerate(layers)))


def _named(position: int, layer: Pair) -> Pair:
    """Open a scope around a layer of a stock stack, and show its values."""
    name, (init_fun, apply_fun) = f"{position}_{name_of(layer)}", opened(layer)

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree]:
        with fitting(name, jax.tree.map(int, in_shape)), jax.named_scope(name):
            return init_fun(key, in_shape)

    def apply(params: PyTree, inputs: PyTree, **options: Any) -> PyTree:
        with fitting(name, jax.tree.map(np.shape, inputs)), scope(name):
            outputs = apply_fun(observed("params", params), observed("inputs", inputs), **options)
            return observed("outputs", outputs)

    return init, apply


def _layer_error(path: str, shape: Shape, cause: str) -> LayerError:
    error = LayerError(f"layer {path} cannot take inputs of shape {shape}: {cause}")
    error.path, error.shape, error.cause = path, shape, cause
    return error
