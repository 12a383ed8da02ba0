"""Optimizers of `jax.example_libraries` by name: "example_adam" is its adam, as an optax transformation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax
from jax.example_libraries import optimizers

from framework.api import Schedule, as_optimizer
from framework_optax.injection import inject
from framework_optax.signatures import Parameters, complete, documented

UNFIT = ("sm3",)
"""Left out: it keeps shapes as numbers among its arrays, and a compiled step cannot reshape by those."""


def catalogue() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Return factories by name, with the library's arguments; its `step_size` is called `learning_rate` here."""
    return {
        f"example_{name}": _factory(name, function)
        for name, function in vars(optimizers).items()
        # The library's decorator marks its optimizers; its schedules begin with a step_size too.
        if hasattr(function, "__wrapped__")
        and "step_size" in inspect.signature(function).parameters
        and name not in UNFIT
    }


def _factory(name: str, function: Callable[..., Any]) -> Callable[..., optax.GradientTransformation]:
    label = f"optimizer 'example_{name}'"
    parameters = _parameters(function)

    def build(values: Mapping[str, Any]) -> optax.GradientTransformation:
        return as_optimizer(
            tuple(function(values["learning_rate"], **{k: v for k, v in values.items() if k != "learning_rate"}))
        )

    def make(*args: Any, **options: Any) -> optax.GradientTransformation:
        given = inspect.signature(make).bind_partial(*args).arguments | options
        return inject(label, build, complete(label, parameters, given))

    return documented(make, f"example_{name}", function, parameters)


def _parameters(function: Callable[..., Any]) -> Parameters:
    """Annotate the parameters as numbers, which all of them are; the library has few annotations."""
    first, *others = inspect.signature(function).parameters.values()
    numbers = [first.replace(name="learning_rate", annotation=float | Schedule)]
    numbers += [parameter.replace(annotation=float) for parameter in others]
    return {parameter.name: parameter for parameter in numbers}
