"""Every optimizer and gradient transformation of optax by its own name, found in the library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from framework.errors import ConfigError
from framework_optax.injection import Build, inject
from framework_optax.masks import mask_by_path
from framework_optax.signatures import Parameters, complete, documented, is_dtype, is_mask, is_number, parameters_of

UNFIT = {
    "lbfgs": "evaluates the loss within its update",
    "scale_by_backtracking_linesearch": "evaluates the loss within its update",
    "scale_by_zoom_linesearch": "evaluates the loss within its update",
    "sophia": "evaluates the loss within its update",
    "hutchinson_estimator_diag_hessian": "evaluates the loss within its update",
    "polyak_sgd": "takes the value of the loss",
    "scale_by_polyak": "takes the value of the loss",
    "momo": "takes the value of the loss",
    "momo_adam": "takes the value of the loss",
    "reduce_on_plateau": "takes the value of the loss",
    "dpsgd": "takes one gradient per example",
    "differentially_private_aggregate": "takes one gradient per example",
    "schedule_free_adamw": "evaluates at other parameters than it trains",
    "schedule_free_sgd": "evaluates at other parameters than it trains",
    "scale_by_muon": "takes a tree of dimension numbers; muon makes it",
    "optimistic_adam": "is deprecated; optimistic_adam_v2 replaces it",
}
"""Functions of optax that are left out, and why: a train step hands over the mean gradient and no more."""

FIXED = {("scale_by_sm3", "b2")}
"""Numbers that optax compares in Python, so that they can be neither traced nor scheduled."""


class Part(NamedTuple):
    """A transformation that is not built yet."""

    name: str
    numbers: Mapping[str, Any]  # its hyper-parameters
    build: Build
    shares_rate: bool = False  # takes the learning rate of its chain


class Found(NamedTuple):
    """A function of optax that makes a transformation."""

    name: str
    function: Callable[..., optax.GradientTransformation]
    parameters: Parameters

    def part(self, options: Mapping[str, Any], shares_rate: bool = False) -> Part:
        """Check the options and tell numbers, which go through the state, from what is fixed."""
        values = complete(f"optimizer '{self.name}'", self.parameters, options)
        numbers, fixed = {}, {}
        for name, value in values.items():
            if is_mask(name) or is_dtype(name):
                # None leaves optax's own default, which is not always None
                fixed |= {} if value is None else {name: mask_by_path(value) if is_mask(name) else _dtype(name, value)}
            elif value is not None and is_number(self.parameters[name].annotation) and (self.name, name) not in FIXED:
                numbers[name] = value
            else:
                fixed[name] = value
        return Part(self.name, numbers, lambda given: self.function(**given, **fixed), shares_rate)


def catalogue() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Return factories by name, with optax's arguments and defaults; masks are patterns of paths, dtypes are names.

    An optimizer takes gradients of the parameters' shapes, and returns updates of their dtypes, to be added to them.
    """
    return {name: _factory(found) for name, found in search().items()}


@functools.cache  # it looks at some 600 parameters
def search() -> dict[str, Found]:
    """Find the transformations of optax and optax.contrib; optax's own wins."""
    functions = vars(optax.contrib) | vars(optax)
    found = {}
    for name, function in sorted(functions.items()):
        if name.startswith("_") or name in UNFIT or not (inspect.isfunction(function) or isinstance(function, partial)):
            continue
        parameters = parameters_of(function)
        if parameters is not None and _makes_transformation(function):
            found[name] = Found(name, function, parameters)
    return found


def _makes_transformation(function: Callable[..., Any]) -> bool:
    """By its annotation, or where it has none and needs no argument, by calling it."""
    signature = inspect.signature(function)
    result = signature.return_annotation
    if result is not signature.empty:
        return isinstance(result, type) and issubclass(result, optax.GradientTransformation)
    required = any(parameter.default is parameter.empty for parameter in signature.parameters.values())
    return not required and isinstance(function(), optax.GradientTransformation)


def _factory(found: Found) -> Callable[..., optax.GradientTransformation]:
    def make(*args: Any, **options: Any) -> optax.GradientTransformation:
        part = found.part(inspect.signature(make).bind_partial(*args).arguments | options)
        return inject(f"optimizer '{part.name}'", part.build, part.numbers)

    return documented(make, found.name, found.function, found.parameters)


def _dtype(name: str, value: str) -> jnp.dtype:
    try:
        return jnp.dtype(value)
    except TypeError as error:
        raise ConfigError(f"{name}: '{value}' is no dtype; expected one such as 'bfloat16' or 'float32'.") from error
