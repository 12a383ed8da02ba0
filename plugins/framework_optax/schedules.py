"""Every schedule of optax by its own name, with and without the suffix, found in the library."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import Array, Schedule
from framework.errors import ConfigError
from framework_optax.signatures import Parameters, complete, documented, parameters_of

CONTAINERS = {
    "boundaries_and_scales": Mapping[Any, float] | Sequence[Any] | None,
    "cosine_kwargs": Sequence[Mapping[str, Any]],
    "schedules": Sequence[Schedule],
    "boundaries": Sequence[int],
}
"""Types in a config of optax's arguments that are containers."""


def catalogue() -> dict[str, Callable[..., Schedule]]:
    """Return factories by name: "cosine_decay_schedule" and "cosine_decay" are the same one.

    A schedule maps a step, an integer [], to a float32 [] (float64 where JAX has it), such as a learning rate.

    Arguments are optax's. `boundaries_and_scales` may be a mapping, or pairs [boundary, scale] as a config needs them
    when boundaries are computed; pairs of one boundary multiply.
    """
    factories = {}
    for name, function in vars(optax.schedules).items():
        if inspect.isfunction(function) and inspect.signature(function).return_annotation == optax.Schedule:
            parameters = parameters_of(function, CONTAINERS)
            if parameters is not None:
                factory = _factory(name, function, parameters)
                factories |= {name: factory, name.removesuffix("_schedule").removesuffix("_schedules"): factory}
    return factories


def _factory(name: str, function: Callable[..., Schedule], parameters: Parameters) -> Callable[..., Schedule]:
    label = f"schedule '{name}'"

    def make(*args: Any, **options: Any) -> Schedule:
        values = complete(label, parameters, inspect.signature(make).bind_partial(*args).arguments | options)
        _check_order(label, values)
        if values.get("boundaries_and_scales") is not None:
            values["boundaries_and_scales"] = _scales(label, values["boundaries_and_scales"])
        try:
            return _strict(TRACEABLE.get(name, function)(**values))
        except ValueError as error:  # how optax refuses a value
            raise ConfigError(f"{label}: {error}") from error

    return documented(make, name, function, parameters)


def _check_order(label: str, values: Mapping[str, Any]) -> None:
    """Check that what follows on the clock of a schedule is later there.

    Raises: ConfigError for a warmup that leaves no step to decay, and for boundaries that do not part the schedules.
    """
    warmup, length = values.get("warmup_steps"), values.get("decay_steps")
    if isinstance(warmup, int) and isinstance(length, int) and warmup >= length:
        text = f"warmup_steps of {label} should be below its decay_steps, which count the warmup too and are {length}"
        raise ConfigError(f"{text}, found {warmup}; take a shorter warmup, or train for more steps.")
    boundaries, schedules = values.get("boundaries"), values.get("schedules")
    if boundaries is not None and schedules is not None:
        found, wanted = list(boundaries), len(schedules) - 1
        if len(found) != wanted or found != sorted(set(found)):
            text = f"boundaries of {label} should be {wanted}, rising, between its {len(schedules)} schedules"
            raise ConfigError(f"{text}, found {found}.")


def _warmup_cosine_decay(
    init_value: float, peak_value: float, warmup_steps: int, decay_steps: int, end_value: float, exponent: float
) -> optax.Schedule:
    """Follow optax's schedule without its comparison of the peak in Python, so that it may be traced and swept."""
    share = end_value / jnp.where(peak_value == 0, 1.0, peak_value)
    warmup = optax.schedules.linear_schedule(init_value, peak_value, warmup_steps)
    decay = optax.schedules.cosine_decay_schedule(peak_value, decay_steps - warmup_steps, share, exponent)
    return optax.schedules.join_schedules([warmup, decay], [warmup_steps])


TRACEABLE = {"warmup_cosine_decay_schedule": _warmup_cosine_decay}


def _strict(schedule: Callable[..., Any]) -> Schedule:
    """Give a schedule strong floats as values; optax's code leans on implicit promotion, which is allowed within."""

    def rate(step: Array) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(schedule(step), jnp.result_type(float))

    return rate


def _scales(label: str, given: Mapping[Any, float] | Sequence[Any]) -> dict[int, float]:
    """Scales by boundary, from a mapping (whose keys may be strings) or from pairs."""
    scales: dict[int, float] = {}
    try:
        for boundary, scale in given.items() if isinstance(given, Mapping) else given:
            scales[int(boundary)] = scales.get(int(boundary), 1.0) * float(scale)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{label}: expected {{step: scale}} or pairs [step, scale], found {given!r}.") from error
    return scales
