"""What others' libraries return, lifted to the framework's contracts."""

from __future__ import annotations

import inspect
from typing import Any, cast

import jax
import optax

from framework.contracts import Array, Loss, Metric, Model, PyTree, Shape


def as_model(built: object, name: str | None = None) -> Model:
    """Lift a stock `jax.example_libraries.stax` pair `(init_fun, apply_fun)` into a `Model`; a `Model` passes as it is.

    Args:
      built: a `Model`, or `(init_fun(key, shape) -> (shape, params), apply_fun(params, inputs, **kwargs))`. Of `rng`
        and `train`, the pair is handed those that its signature takes.
      name: what `layer_name` tells of a lifted pair; by default the name of the function that made it.

    Raises: TypeError if it is neither.
    """
    if isinstance(built, Model):
        return built
    if not (isinstance(built, tuple) and len(built) == 2 and all(callable(part) for part in built)):
        raise TypeError(f"expected a Model or a stax pair (init_fun, apply_fun), found {type(built).__name__}")
    init_fun, apply_fun = built
    accepted = inspect.signature(apply_fun).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        out_shape, params = init_fun(key, in_shape)
        return out_shape, params, ()

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[PyTree, PyTree]:
        options = {"rng": key, "train": train}
        passed = {option: value for option, value in options.items() if takes_all or option in accepted}
        return apply_fun(params, inputs, **passed), state

    init.__qualname__ = name or getattr(init_fun, "__qualname__", type(init_fun).__name__)
    return Model(init, apply)


def layer_name(model: Model) -> str:
    """The factory's name, read from the qualified name of its `init`: "Conv" for `Conv.<locals>.init`."""
    return getattr(model.init, "__qualname__", type(model.init).__name__).split(".")[0]


def as_optimizer(built: object) -> optax.GradientTransformation:
    """Adapt the triple `(opt_init, opt_update, get_params)` of `jax.example_libraries.optimizers` to optax's contract.

    The triple keeps the parameters in its own state; the adapter returns the difference to them as the update, so that
    parameters follow the triple's to rounding errors. An `optax.GradientTransformation` passes as it is.

    Raises: TypeError if it is neither.
    """
    if isinstance(built, optax.GradientTransformation):
        return built
    if isinstance(built, tuple) and len(built) == 2 and all(callable(part) for part in built):
        return optax.GradientTransformation(*built)
    if not (isinstance(built, tuple) and len(built) == 3 and all(callable(part) for part in built)):
        raise TypeError(f"expected an optax.GradientTransformation or a triple, found {type(built).__name__}")
    opt_init, opt_update, get_params = built

    def init(params: PyTree) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):  # the library's own triples lean on it
            return jax.numpy.zeros([], jax.numpy.int32), opt_init(params)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        count, inner = state
        with jax.numpy_dtype_promotion("standard"):
            after = opt_update(count, updates, inner)
        return jax.tree.map(lambda new, old: new - old, get_params(after), get_params(inner)), (count + 1, after)

    return optax.GradientTransformation(init, update)


def as_metric(built: Any) -> Metric:
    """Give a plain `f(outputs, batch) -> [B]` the mean as its result; a `Metric` passes as it is.

    Raises: TypeError if it is neither.
    """
    if isinstance(built, Metric):
        return built
    if not callable(built):
        raise TypeError(f"expected a function (outputs, batch) -> [B] or a Metric, found {type(built).__name__}")
    return Metric(cast(Loss, built), lambda total, count: float(total / count))
