"""Hyper-parameters in the optimizer's state, where they can be logged and swept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import PyTree
from framework.errors import ConfigError

Build = Callable[[Mapping[str, Any]], optax.GradientTransformation]
"""`build(hyperparams) -> transformation`; the values may be traced."""


def inject(label: str, build: Build, hyperparams: Mapping[str, Any]) -> optax.GradientTransformation:
    """Keep a transformation's hyper-parameters in its state: `state.hyperparams[name]`, as the last update used them.

    The dtypes of the state stay those of `init`, and none is weak. So no loop refuses the state, and no second call
    compiles. Parameters and gradients below single precision are widened to it inside, since 0.999 as a bfloat16 is 1.
    Updates come back in the dtypes of the parameters. Libraries rely on implicit promotion, so it is allowed inside.
    Source: `optax.inject_hyperparams`.

    Args:
      label: name of the optimizer, for messages.
      build: makes the transformation; called at each tracing.
      hyperparams: by name, a number, a traced scalar or a schedule.
    """

    def inner(**values: Any) -> optax.GradientTransformation:
        return build(values)

    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in hyperparams]
    inner.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    injected = optax.inject_hyperparams(inner, hyperparam_dtype=jnp.result_type(float))(**hyperparams)

    def init(params: PyTree) -> optax.OptState:
        try:
            with jax.numpy_dtype_promotion("standard"):
                state = injected.init(_widen(params))
        except ValueError as error:  # optax refuses the value of an option so
            raise ConfigError(f"{label}: {error}") from error
        return _cast(state, state)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            changed, after = injected.update(_widen(updates), state, _widen(params), **extra)
        return _cast(changed, updates if params is None else params), _cast(after, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _widen(tree: PyTree) -> PyTree:
    """Widen real and complex arrays to single precision or more."""

    def widen(leaf: Any) -> Any:
        dtype = jnp.result_type(leaf)
        return leaf.astype(jnp.promote_types(dtype, jnp.float32)) if jnp.issubdtype(dtype, jnp.inexact) else leaf

    return jax.tree.map(widen, tree)


def _cast(tree: PyTree, like: PyTree) -> PyTree:
    """Cast each array to the dtype of its counterpart, never to a weak one; keys stay as they are."""

    def cast(leaf: Any, other: Any) -> Any:
        dtype = jnp.result_type(other)
        return leaf if jnp.issubdtype(dtype, jax.dtypes.extended) else jax.lax.convert_element_type(leaf, dtype)

    return jax.tree.map(cast, tree, like)
