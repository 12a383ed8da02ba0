"""Stacks of layers, as in stax, with parameters that carry the names of their layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Model, PyTree, Shape, is_collected, layer_name, name_of
from framework.errors import ConfigError
from framework_stax.entry import Entry
from framework_stax.tiles import EXAMPLES, by_tiles, is_examplewise, lifted, pays


@dataclass(frozen=True, slots=True, eq=False)
class Stack(Sequence[Any]):
    """Parameters or states of the layers of a stack: a sequence with a name for each entry, and a pytree.

    Attributes:
      names: one for each entry, such as "0_Conv". Paths begin with them: the path of a leaf is "0_Conv/W".
      entries: the parameters, or the state, of each layer.
    """

    names: tuple[str, ...]
    entries: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        """Return the entry at a position or with a name, or the entries of a slice."""
        return self.entries[self.names.index(index) if isinstance(index, str) else index]


jax.tree_util.register_pytree_with_keys(
    Stack,
    lambda stack: (zip(map(jax.tree_util.DictKey, stack.names), stack.entries, strict=True), stack.names),
    lambda names, entries: Stack(names, tuple(entries)),
    lambda stack: (stack.entries, stack.names),
)


def serial(*layers: Any, names: Sequence[str] | None = None) -> Model:
    """Compose layers one after the other.

    Args:
      *layers: each a `Model` or a stax pair `(init_fun, apply_fun)`. The same `Model` several times stands for layers
        of one kind, each with its own parameters. They are traced, differentiated and lowered once.
      names: one for each layer; by default those of the functions that made them.

    Returns: a `Model` whose parameters and state are each a `Stack`. Every layer has a key of its own. A layer that
      cannot take its inputs raises a ConfigError with its name, its position and the shape.

    Raises: ConfigError if there is not one name for each layer.
    """
    chain = _enter(layers, names)
    groups = _groups(chain)

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Stack, Stack]:
        shape, made = in_shape, []
        for _, group in groupby(chain, lambda layer: id(layer.model)):
            shape, new = _init_alike(list(group), key, shape)
            made += new
        return shape, _stack(chain, [params for params, _ in made]), _stack(chain, [state for _, state in made])

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[PyTree, Stack]:
        states = []
        for group in groups:
            inputs, after = _apply(group, params, state, inputs, key, train)
            states.extend(after)
        return inputs, _stack(chain, states)

    return Model(init, apply)


def parallel(*layers: Any, names: Sequence[str] | None = None) -> Model:
    """Compose layers side by side: a list of inputs, one for each layer, to a list of outputs.

    `FanOut` makes such a list; `FanInSum` and `FanInConcat` take one.

    Args:
      *layers: each a `Model` or a stax pair `(init_fun, apply_fun)`.
      names: one for each layer; by default those of the functions that made them.

    Returns: a `Model`, as `serial` does.

    Raises: ConfigError if there is not one name for each layer.
    """
    branches = _enter(layers, names)

    def init(key: Array, in_shape: Shape) -> tuple[list[Shape], Stack, Stack]:
        shapes = _one_each(in_shape, branches)
        made = [branch.init(key, shape) for branch, shape in zip(branches, shapes, strict=True)]
        out_shapes, params, states = ([one[i] for one in made] for i in range(3))
        return out_shapes, _stack(branches, params), _stack(branches, states)

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[list[PyTree], Stack]:
        pairs = zip(branches, _one_each(inputs, branches), strict=True)
        done = [branch.apply(params, state, each, key, train) for branch, each in pairs]
        return [outputs for outputs, _ in done], _stack(branches, [after for _, after in done])

    return Model(init, apply)


def named_serial(layers: Sequence[Model]) -> Model:
    """Stack of layers, one after the other.

    Args:
      layers: list of layers by name, such as `[{Conv: [16, [5, 5]]}, Relu]`.
    """
    return serial(*layers)


def named_parallel(layers: Sequence[Model]) -> Model:
    """Layers side by side, each with an input of its own: between `FanOut` and `FanInSum` or `FanInConcat`.

    Args:
      layers: list of layers by name.
    """
    return parallel(*layers)


def _enter(layers: Sequence[Any], names: Sequence[str] | None) -> list[Entry]:
    models = [lifted(layer) for layer in layers]
    chosen = [name_of(layer) for layer in layers] if names is None else names
    if len(chosen) != len(models):
        raise ConfigError(f"a stack of {len(models)} layers was given {len(chosen)} names; give one for each layer.")
    times = Counter(map(id, models))
    kinds = [model for model in models if times[id(model)] > 1 and not is_examplewise(model)]  # these run in tiles
    shared = {id(model): _applied_once(model) for model in kinds}
    models = [shared.get(id(model), model) for model in models]
    return [Entry(i, f"{i}_{name}", model, {}) for i, (name, model) in enumerate(zip(chosen, models, strict=True))]


def _groups(chain: Sequence[Entry]) -> list[list[Entry]]:
    """Group layers that run together: a convolution with the examplewise layers after it, or one layer alone."""
    groups: list[list[Entry]] = []
    tiled = False
    for layer in chain:
        local = is_examplewise(layer.model)
        if local and tiled:
            groups[-1].append(layer)
        else:
            groups.append([layer])
            tiled = local and layer_name(layer.model) == "Conv"
    return groups


def _apply(
    group: Sequence[Entry], params: PyTree, state: PyTree, inputs: PyTree, key: Array | None, train: bool
) -> tuple[PyTree, list[PyTree]]:
    """Apply the layers of a group, tile after tile of the batch if that is faster."""
    if len(group) == 1:
        outputs, after = group[0].apply(params, state, inputs, key, train)
        return outputs, [after]

    def run(inputs: Array) -> Array:
        for layer in group:
            inputs, _ = layer.apply(params, state, inputs, None, train)
        return inputs

    outputs = by_tiles(run, (inputs,), EXAMPLES) if pays() and np.ndim(inputs) > 1 else run(inputs)
    return outputs, [state[layer.position] for layer in group]


def _applied_once(model: Model) -> Model:
    """Wrap apply so that JAX keeps its trace, derivative and lowering; XLA inlines the calls."""
    kept = jax.jit(model.apply, static_argnames="train")

    @wraps(model.apply)
    def apply(*args: PyTree, **options: Any) -> tuple[PyTree, PyTree]:
        return (model.apply if is_collected() else kept)(*args, **options)

    return Model(model.init, apply)


def _init_alike(layers: Sequence[Entry], key: Array, shape: Shape) -> tuple[Shape, list[tuple[PyTree, PyTree]]]:
    """Make consecutive layers of one kind, as one batch if they keep the shape.

    The program of a batch is a fraction of the size, and the numbers are the same.

    Returns: the shape of the last layer's outputs; parameters and state of each layer.
    """
    first, *others = layers
    if not others:
        shape, params, state = first.init(key, shape)
        return shape, [(params, state)]
    shapes: list[Shape] = []

    def make(position: Array) -> tuple[PyTree, PyTree]:
        out_shape, params, state = first._replace(position=position).init(key, shape)
        shapes.append(out_shape)
        return params, state

    made = jax.vmap(make)(jnp.array([layer.position for layer in layers], jnp.uint32))
    if tuple(shapes[0]) == tuple(shape):
        made = jax.lax.optimization_barrier(made)  # else XLA makes each slice again, without the batch
        return shape, [jax.tree.map(lambda leaf, i=i: leaf[i], made) for i in range(len(layers))]
    after, made_first = _init_alike([first], key, shape)
    last, made_others = _init_alike(others, key, after)
    return last, [*made_first, *made_others]


def _stack(layers: Sequence[Entry], entries: Iterable[Any]) -> Stack:
    return Stack(tuple(layer.name for layer in layers), tuple(entries))


def _one_each(inputs: Any, branches: Sequence[Entry]) -> Sequence[Any]:
    """Check that there is one input, or shape, for each branch; a single shape is a sequence of integers."""
    single = not isinstance(inputs, list | tuple) or any(isinstance(each, int | np.integer) for each in inputs)
    if single or len(inputs) != len(branches):
        found = "one array" if single else f"{len(inputs)} inputs"
        raise ConfigError(f"parallel has {len(branches)} layers, found {found}; put FanOut: {len(branches)} before it.")
    return inputs
