"""One layer of a stack: its name, its random key, and its name in errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.example_libraries import stax

from framework.api import Array, Model, PyTree, Shape, layer_name, observed, scope
from framework.errors import ConfigError

MISFITS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, ZeroDivisionError, ConfigError)
"""Errors that layers raise on inputs that do not fit. FloatingPointError is left out: `jax_debug_nans` raises it."""


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


class Entry(NamedTuple):
    """One layer at its position in a stack.

    Attributes:
      declared: shapes that init said the outputs have, by those of the inputs, without the batch. They are noted while
        init is traced and compared while apply is, so that a wrong one is not told as a fault of the next layer.
    """

    position: int
    name: str  # such as "0_Conv"
    model: Model
    declared: dict[str, Shape]

    def init(self, key: Array, shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        """Make the layer, with a key of its own folded from the stack's.

        Raises: LayerError if the layer cannot take this shape, or has empty outputs for it.
        """
        shape = _plain(shape)
        with _blame(self.name, shape), jax.named_scope(self.name):
            out_shape, params, state = self.model.init(jax.random.fold_in(key, self.position), shape)
            out_shape = _plain(out_shape)
            if 0 in jax.tree.leaves(out_shape):
                raise ConfigError(f"its outputs would be empty, of shape {out_shape}.")
        self.declared[str(_tails(shape))] = out_shape
        return out_shape, params, state

    def apply(
        self, params: PyTree, state: PyTree, inputs: PyTree, key: Array | None, train: bool
    ) -> tuple[PyTree, PyTree]:
        """Apply the layer to inputs, given the parameters, state and key of the whole stack.

        Raises: LayerError if the layer cannot take these inputs.
        """
        with _blame(self.name, jax.tree.map(np.shape, inputs)), scope(self.name):
            own = None if key is None else jax.random.fold_in(key, self.position)
            weights, inputs = observed("params", params[self.position]), observed("inputs", inputs)
            outputs, after = self.model.apply(weights, state[self.position], inputs, key=own, train=train)
            outputs = observed("outputs", outputs)
            said = self.declared.get(str(_tails(jax.tree.map(np.shape, inputs))))
            found = jax.tree.map(np.shape, outputs)
            if said is not None and _tails(said) != _tails(found):
                raise ConfigError(f"its outputs have the shape {found}, and its init declared {said}.")
            return outputs, after


def name_of(layer: Any) -> str:
    """Return the name of a layer's factory, such as "Conv", or of a stock constant, such as "Relu"; else "Layer".

    Args:
      layer: a `Model` or a stax pair.
    """
    if isinstance(layer, Model):
        name = layer_name(layer)
    else:
        constants = (name for name, value in vars(stax).items() if value is layer)
        # The innermost function around the pair: "PoolingLayer" for stock MaxPool, "GeneralConv" for stock Conv.
        around = getattr(layer[0], "__qualname__", "").split(".<locals>")[:-1]
        name = next(constants, around[-1].strip(".") if around else "")
    return name if name.isidentifier() and name not in ("init", "init_fun") else "Layer"


def _plain(shape: Shape) -> Shape:
    """Convert a shape, or a pytree of shapes, to Python's integers with -1 for the batch.

    Stock layers mix in NumPy's integers, and stock pools turn a batch of -1 into 0.
    """

    def plain(one: Any) -> tuple[int, ...]:
        first, *others = map(int, one)
        return (first or -1, *others)

    return jax.tree.map(plain, shape, is_leaf=_is_shape)


def _is_shape(node: Any) -> bool:
    # A size may be symbolic: that of the batch, in an exported program.
    return isinstance(node, list | tuple) and len(node) > 0 and not any(isinstance(size, CONTAINERS) for size in node)


CONTAINERS = (list, tuple, dict)


def _tails(shapes: Any) -> Any:
    return jax.tree.map(lambda shape: tuple(shape[1:]), shapes, is_leaf=_is_shape)


@contextmanager
def _blame(name: str, shape: Shape) -> Iterator[None]:
    """Add the layer and its inputs to the error that it raises."""
    try:
        yield
    except LayerError as error:
        raise _layer_error(f"{name}/{error.path}", error.shape, error.cause) from error.__cause__
    except MISFITS as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        lines = str(error).strip().splitlines() or ["no message"]
        raise _layer_error(name, shape, f"{kind}{lines[0]}") from error


def _layer_error(path: str, shape: Shape, cause: str) -> LayerError:
    error = LayerError(f"layer {path} cannot take inputs of shape {shape}: {cause}")
    error.path, error.shape, error.cause = path, shape, cause
    return error
