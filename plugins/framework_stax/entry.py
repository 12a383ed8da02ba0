"""One layer of a stack: its name, its random key, and its name in errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import Array, Model, PyTree, Shape, fitting, observed, scope
from framework.errors import ConfigError


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
        with fitting(self.name, shape), jax.named_scope(self.name):
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
        with fitting(self.name, jax.tree.map(np.shape, inputs)), scope(self.name):
            own = None if key is None else jax.random.fold_in(key, self.position)
            weights, inputs = observed("params", params[self.position]), observed("inputs", inputs)
            outputs, after = self.model.apply(weights, state[self.position], inputs, key=own, train=train)
            outputs = observed("outputs", outputs)
            said = self.declared.get(str(_tails(jax.tree.map(np.shape, inputs))))
            found = jax.tree.map(np.shape, outputs)
            if said is not None and _tails(said) != _tails(found):
                raise ConfigError(f"its outputs have the shape {found}, and its init declared {said}.")
            return outputs, after


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
