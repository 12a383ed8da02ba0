"""Outputs of layers: their histograms, and the units that say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from framework.api import Array, Batch, Probe, Problem, TrainState, layer_outputs
from framework.errors import ConfigError

SCORES = ("loss", "metrics")
"""Sections whose values are no layers'."""


def activations() -> Probe:
    """Histograms of the outputs of each layer, and the share of its dead units.

    A unit is a place on the last axis, such as a channel of images [B, H, W, C]. It is dead if it is 0, or any one
    value, for every example of the batch and everywhere in it. Much more than 0 behind a Relu tells of a rate or
    initial weights too high. A batch says more the larger it is.

    Layers are the parts of a stack by their path, such as `1_Relu`, and the whole model. Outputs are those of the next
    batch in evaluation mode. Layers inside `jit`, `vmap`, `scan` or `checkpoint` of a model or task are left out, since
    values cannot leave these.

    Raises: ConfigError for a batch of one example, or if no layer shows its outputs.
    """

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        layers = rows_by_layer(problem.loss, state, batch)
        if not layers:
            raise ConfigError("no layer shows its outputs: the task evaluates its models in a loop or a program apart.")
        if any(len(rows) < 2 for arrays in layers.values() for rows in arrays):
            raise ConfigError("every unit of a single example is at one value; give batches of at least 2 examples.")
        found = {f"outputs/{path}": values_of(arrays) for path, arrays in layers.items()}
        return found | {f"dead/{path}": _dead(arrays) for path, arrays in layers.items()}

    return probe


def rows_by_layer(loss: Callable[..., Any], state: TrainState, batch: Batch) -> dict[str, list[Array]]:
    """Return the outputs of each layer by path, each [rows, C] with C the size of its last axis.

    Args:
      loss: runs the layers, `loss(params, state, batch)`.
    """
    outputs = layer_outputs(loss, state.params, state, batch)
    return {
        path.removeprefix("model/"): [_rows(each) for each in arrays]
        for path, arrays in outputs.items()
        if path.partition("/")[0].partition(".")[0] not in SCORES
    }


def values_of(arrays: list[Array]) -> Array:
    """Return all numbers of some arrays as one, float32 [n]; of complex ones their sizes."""
    return jnp.concatenate([(jnp.abs(each) if jnp.iscomplexobj(each) else each).ravel() for each in arrays]).astype(
        jnp.float32
    )


def _rows(outputs: Array) -> Array:
    """Return outputs [B, ..., C] as [rows, C]; those without further axes have one unit."""
    return outputs.reshape(-1, outputs.shape[-1] if outputs.ndim > 1 else 1)


def _dead(arrays: list[Array]) -> Array:
    """Return the share of units that have one value in all rows; NaN is no value."""
    same = [(rows == rows[:1]).all(axis=0) for rows in arrays]
    return jnp.concatenate(same).mean(dtype=jnp.float32)
