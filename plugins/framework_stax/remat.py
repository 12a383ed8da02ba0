"""Layers that trade time for memory."""

from __future__ import annotations

import jax

from framework.api import Array, Model, PyTree


def Remat(layer: Model) -> Model:
    """Compute the inner values of a layer, or of a stack, again for its gradient instead of keeping them.

    In training only the inputs of the layer stay in memory until the backward pass. The price is a second forward pass.
    Outputs, gradients, noise and paths of parameters are those of the layer itself, so that a model can be loaded with
    and without it. Source: `jax.checkpoint`; Chen et al. 2016, arXiv:1604.06174.

    Args:
      layer: layer by name, such as `{Remat: {Dense: 512}}` or `{Remat: {serial: [{Dense: 512}, Relu]}}`.
    """

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[PyTree, PyTree]:
        def inner(params: PyTree, state: PyTree, inputs: PyTree, key: Array | None) -> tuple[PyTree, PyTree]:
            return layer.apply(params, state, inputs, key=key, train=train)

        return (jax.checkpoint(inner) if train else inner)(params, state, inputs, key)

    return Model(layer.init, apply)  # keeps the init, which carries the layer's name
