"""Computation in fewer bits; parameters, optimizer state, losses and metrics stay float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from framework.contracts.components import Array, Model
from framework.trees import PyTree

FIRST_SCALE = 2.0**8
"""Losses are summed over a batch, not averaged: with 128 examples this is the usual 2 ** 15 for a mean."""

LARGEST_SCALE, SMALLEST_SCALE = 2.0**24, 2.0**-24

GOOD_STEPS = 2000
"""Updates without an overflow after which the scale doubles."""


class Scaled(NamedTuple):
    """An optimizer's state beside the factor that losses are multiplied by."""

    scale: Array  # float32 []
    good_steps: Array  # int32 [], updates since the scale last changed
    finite: Array  # bool [], false if the last update was skipped
    inner: PyTree  # the optimizer's own state


def in_precision(model: Model, precision: str) -> Model:
    """Cast a model's parameters and inputs to `precision`, and its outputs back to float32.

    The cast is part of the differentiated function, so gradients are float32 too. The model's state keeps its dtypes,
    and integers and booleans are not cast.

    Args:
      model: any model.
      precision: "float32", "bfloat16" or "float16".
    """
    if precision == "float32":
        return model
    dtype = jnp.dtype(precision)

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[PyTree, PyTree]:
        outputs, after = model.apply(_cast(params, dtype), state, _cast(inputs, dtype), key=key, train=train)
        return _cast(outputs, jnp.float32), jax.tree.map(_like, after, state)

    return Model(model.init, apply)


def loss_scaled(optimizer: optax.GradientTransformation, good_steps: int = GOOD_STEPS) -> optax.GradientTransformation:
    """Let an optimizer take gradients of a scaled loss, and skip an update whose gradients overflowed.

    The largest float16 is 65504 and the smallest 6e-8: the scale keeps gradients between them. It halves when they
    overflow and doubles after `good_steps` updates without. Micikevicius et al. 2018, arXiv:1710.03740.
    """

    def init(params: PyTree) -> Scaled:
        scale = jnp.full([], FIRST_SCALE, jnp.float32)
        return Scaled(scale, jnp.zeros([], jnp.int32), jnp.ones([], jnp.bool_), optimizer.init(params))

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, Scaled]:
        grads = jax.tree.map(lambda grad: grad / state.scale.astype(grad.dtype), updates)
        finite = jnp.stack([jnp.isfinite(grad).all() for grad in jax.tree.leaves(grads)]).all()
        changes, inner = jax.lax.cond(
            finite,
            lambda: optimizer.update(grads, state.inner, params),
            lambda: (jax.tree.map(jnp.zeros_like, grads), state.inner),
        )
        good = jnp.where(finite, state.good_steps + 1, 0)
        factor = jnp.where(finite, jnp.where(good == good_steps, 2.0, 1.0), 0.5).astype(jnp.float32)
        scale = jnp.clip(state.scale * factor, SMALLEST_SCALE, LARGEST_SCALE)
        return changes, Scaled(scale, jnp.where(good == good_steps, 0, good), finite, inner)

    return optax.GradientTransformation(init, update)


def scale_loss(loss: Array, opt_state: PyTree) -> Array:
    """Multiply the loss by the scale that the optimizer's state holds, if it holds one."""
    return loss * opt_state.scale if isinstance(opt_state, Scaled) else loss


def unless_skipped(opt_state: PyTree, after: PyTree, before: PyTree) -> PyTree:
    """Select the model's state after a step, or before it if the update was skipped, to keep no overflow in it."""
    if not isinstance(opt_state, Scaled):
        return after
    return jax.tree.map(lambda new, old: jnp.where(opt_state.finite, new, old), after, before)


def _like(new: Any, old: Any) -> Any:
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
