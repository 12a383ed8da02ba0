"""Sizes of parameters, gradients and updates, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Probe, Problem, PyTree, TrainState, leaves_by_path

Part = Literal["parameters", "gradients", "updates"]


def norms() -> Probe:
    """Euclidean norms of parameters, gradients and updates, of each layer and of all, and the ratio of the last to the
    first.

    A healthy update is about a thousandth of its parameters; much more is a rate too high, much less a layer that does
    not learn. Gradients are those of the next batch in evaluation mode, without noise. The updates are those that the
    optimizer makes of it.
    """

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        found = {}
        sizes = {part: _norms(tree) for part, tree in _parts(problem, state, batch).items()}
        for part, norms in sizes.items():
            found |= {f"{part}/{layer}" if layer else part: norm for layer, norm in norms.items()}
        for layer, norm in sizes["updates"].items():
            ratio = norm / jnp.maximum(sizes["parameters"][layer], jnp.finfo(norm.dtype).tiny)
            found[f"ratio/{layer}" if layer else "ratio"] = ratio
        return found

    return probe


def histograms(of: Sequence[Part] = ("parameters", "gradients")) -> Probe:
    """Histograms of the parameters, gradients or updates of each layer.

    Args:
      of: the parts to show.
    """

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        parts = _parts(problem, state, batch)
        grouped = {(part, layer): leaves for part in of for layer, leaves in by_layer(parts[part]).items()}
        return {
            f"{part}/{layer}": jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in leaves])
            for (part, layer), leaves in grouped.items()
        }

    return probe


def by_layer(params: PyTree) -> dict[str, list[Array]]:
    """Group the leaves of a tree of parameters by the layer, the path without its last name."""
    groups: dict[str, list[Array]] = {}
    for path, leaf in leaves_by_path(params).items():
        groups.setdefault(path.rpartition("/")[0] or path, []).append(leaf)
    return groups


def _parts(problem: Problem, state: TrainState, batch: Batch) -> dict[Part, PyTree]:
    after = problem.update(state, batch).params
    return {
        "parameters": state.params,
        "gradients": jax.grad(problem.loss)(state.params, state, batch),
        "updates": jax.tree.map(lambda new, old: new - old, after, state.params),
    }


def _norms(tree: PyTree) -> dict[str, Array]:
    """Return the norm of each layer, and that of the whole tree under ""."""
    squares = {
        layer: sum((jnp.square(leaf.astype(jnp.float32)).sum() for leaf in leaves), jnp.zeros([]))
        for layer, leaves in by_layer(tree).items()
    }
    squares[""] = sum(squares.values(), jnp.zeros([]))
    return {layer: jnp.sqrt(square) for layer, square in squares.items()}
