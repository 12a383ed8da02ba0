"""Sizes of parameters, gradients and updates, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Probe, Problem, PyTree, TrainState, leaves_by_path
from framework.errors import ConfigError
from framework_probes.activations import rows_by_layer, values_of

Part = Literal["parameters", "gradients", "updates"]
Spread = Literal[Part, "activations"]


def norms() -> Probe:
    """Euclidean norms of parameters, gradients and updates, of each layer and of all, and the ratio of the last to the
    first.

    A healthy update is about a thousandth of its parameters; much more is a rate too high, much less a layer that does
    not learn. Gradients are those of the next batch in evaluation mode, without noise. The updates are those that the
    optimizer makes of it.
    """

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        found = {}
        sizes = {part: _norms(_part(part, problem, state.params, state, batch)) for part in get_args(Part)}
        for part, norms in sizes.items():
            found |= {f"{part}/{layer}" if layer else part: norm for layer, norm in norms.items()}
        for layer, norm in sizes["updates"].items():
            ratio = norm / jnp.maximum(sizes["parameters"][layer], jnp.finfo(norm.dtype).tiny)
            found[f"ratio/{layer}" if layer else "ratio"] = ratio
        return found

    return probe


def histograms(of: Sequence[Spread] = ("parameters", "gradients"), examples: int | None = None) -> Probe:
    """Histograms of the parameters, gradients, updates or activations of each layer.

    Activations are the outputs of layers in evaluation mode; a model that shows no layers has none.

    Args:
      of: the parts to show.
      examples: of the batch that gradients, updates and activations are taken for, the first ones; null takes all. An
        image alone has thousands of activations.

    Raises: ConfigError if examples is below 1.
    """
    if examples is not None and examples < 1:
        raise ConfigError(f"examples is {examples}, expected at least 1.")

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        batch = jax.tree.map(lambda leaf: leaf[:examples], dict(batch))
        layers: dict[Spread, Mapping[str, list[Array]]] = {}

        def passes(*args: Any) -> None:
            layers.update({part: by_layer(_part(part, problem, *args)) for part in get_args(Part) if part in of})
            if "activations" in of:
                problem.loss(*args)

        # Where outputs of layers are collected, no layer runs in a loop: gradients compile in half the time.
        layers["activations"] = rows_by_layer(passes, state, batch)
        return {f"{part}/{layer}": values_of(arrays) for part in of for layer, arrays in layers[part].items()}

    return probe


def by_layer(params: PyTree) -> dict[str, list[Array]]:
    """Group the leaves of a tree of parameters by the layer, the path without its last name."""
    groups: dict[str, list[Array]] = {}
    for path, leaf in leaves_by_path(params).items():
        groups.setdefault(path.rpartition("/")[0] or path, []).append(leaf)
    return groups


def _part(part: Part, problem: Problem, params: PyTree, state: TrainState, batch: Batch) -> PyTree:
    if part == "parameters":
        return params
    if part == "gradients":
        return jax.grad(problem.loss)(params, state, batch)
    return jax.tree.map(lambda new, old: new - old, problem.update(state, batch).params, params)


def _norms(tree: PyTree) -> dict[str, Array]:
    """Return the norm of each layer, and that of the whole tree under ""."""
    squares = {
        layer: sum((jnp.square(leaf.astype(jnp.float32)).sum() for leaf in leaves), jnp.zeros([]))
        for layer, leaves in by_layer(tree).items()
    }
    squares[""] = sum(squares.values(), jnp.zeros([]))
    return {layer: jnp.sqrt(square) for layer, square in squares.items()}
