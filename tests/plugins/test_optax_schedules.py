"""Schedules by name, held against optax's own."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from framework.errors import ConfigError
from framework_optax.schedules import catalogue

FACTORIES = catalogue()
STEPS = jnp.arange(24)
CYCLE = {"init_value": 0.0, "peak_value": 0.3, "warmup_steps": 2, "decay_steps": 8, "end_value": 0.01}
OPTIONS = {
    "constant_schedule": {"value": 0.3},
    "cosine_decay_schedule": {"init_value": 0.3, "decay_steps": 20, "alpha": 0.1},
    "cosine_onecycle_schedule": {"transition_steps": 20, "peak_value": 0.3},
    "exponential_decay": {"init_value": 0.3, "transition_steps": 5, "decay_rate": 0.5, "end_value": 0.05},
    "linear_onecycle_schedule": {"transition_steps": 20, "peak_value": 0.3},
    "linear_schedule": {"init_value": 0.3, "end_value": 0.1, "transition_steps": 20},
    "piecewise_constant_schedule": {"init_value": 0.3, "boundaries_and_scales": {5: 0.1, 10: 0.5}},
    "piecewise_interpolate_schedule": {
        "interpolate_type": "cosine",
        "init_value": 0.3,
        "boundaries_and_scales": {5: 0.1, 10: 0.5},
    },
    "polynomial_schedule": {"init_value": 0.3, "end_value": 0.1, "power": 2.0, "transition_steps": 20},
    "sgdr_schedule": {"cosine_kwargs": [CYCLE, CYCLE]},
    "warmup_constant_schedule": {"init_value": 0.0, "peak_value": 0.3, "warmup_steps": 5},
    "warmup_cosine_decay_schedule": CYCLE,
    "warmup_exponential_decay_schedule": {
        "init_value": 0.0,
        "peak_value": 0.3,
        "warmup_steps": 4,
        "transition_steps": 5,
        "decay_rate": 0.5,
    },
}
NOT_TRACED = {"decay_rate"}  # optax compares it in Python


def values(schedule):
    return jax.jit(jax.vmap(schedule))(STEPS)


def test_all_schedules_of_optax_are_found_with_and_without_suffix():
    assert {name for name in FACTORIES if hasattr(optax.schedules, name)} == {*OPTIONS, "join_schedules"}
    short = {name.removesuffix("_schedule").removesuffix("_schedules") for name in (*OPTIONS, "join_schedules")}
    assert set(FACTORIES) == {*OPTIONS, "join_schedules", *short}


@pytest.mark.parametrize("name", OPTIONS)
def test_equals_optax(name):
    found = FACTORIES[name.removesuffix("_schedule")](**OPTIONS[name])
    with jax.numpy_dtype_promotion("standard"):
        wanted = jax.vmap(getattr(optax, name)(**OPTIONS[name]))(STEPS)
    np.testing.assert_allclose(values(found), jnp.broadcast_to(wanted, STEPS.shape), rtol=1e-6, atol=1e-9)
    rate = jax.eval_shape(found, STEPS[0])
    assert (rate.shape, rate.dtype, rate.weak_type) == ((), jnp.float32, False)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "sgdr_schedule"])
def test_values_may_be_traced(name):
    options = OPTIONS[name]
    numbers = {k: v for k, v in options.items() if isinstance(v, float) and k not in NOT_TRACED}
    traced = jax.jit(lambda given: FACTORIES[name](**options | given)(STEPS[3]))(jax.tree.map(jnp.float32, numbers))
    np.testing.assert_allclose(traced, FACTORIES[name](**options)(STEPS[3]), rtol=1e-5)


@pytest.mark.parametrize(
    "scales", [{5: 0.1, 10: 0.5}, {"5": 0.1, "10": 0.5}, [[5, 0.1], [10, 0.5]], ((5, 0.2), (10, 0.5), (5, 0.5))]
)
def test_boundaries_may_be_strings_or_pairs(scales):
    found = values(FACTORIES["piecewise_constant"](init_value=1.0, boundaries_and_scales=scales))
    np.testing.assert_allclose(found, np.select([STEPS < 5, STEPS < 10], [1.0, 0.1], 0.05), rtol=1e-6)


def test_join_takes_schedules():
    parts = [FACTORIES["constant"](value=1.0), FACTORIES["linear"](init_value=0.5, end_value=0.0, transition_steps=10)]
    found = values(FACTORIES["join"](schedules=parts, boundaries=[4]))
    np.testing.assert_allclose(found, [1.0] * 4 + [max(0.5 - 0.05 * i, 0.0) for i in range(20)], atol=1e-6)


@pytest.mark.parametrize(
    "name", ["cosine_onecycle", "linear_onecycle", "cosine_decay", "warmup_cosine_decay", "linear"]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_shortest_runs_have_finite_rates(name, steps):
    wanted = {"transition_steps": steps, "decay_steps": steps, "warmup_steps": 0}
    wanted |= {"init_value": 0.1, "peak_value": 0.1, "end_value": 0.0}
    options = {key: value for key, value in wanted.items() if key in inspect.signature(FACTORIES[name]).parameters}
    rates = values(FACTORIES[name](**options))
    assert np.all(np.isfinite(rates) & (rates > -1e-8) & (rates < 0.1001))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cosine_decay", {"init_value": 0.1, "decay_steps": 0}, ["cosine_decay", "decay_steps"]),
        (
            "cosine_decay",
            {"init_value": 0.1, "decay_step": 5},
            ["no option 'decay_step'", "Did you mean 'decay_steps'?"],
        ),
        ("cosine_decay", {"init_value": 0.1}, ["decay_steps"]),
        ("cosine_decay", {"init_value": 0.1, "decay_steps": "ten"}, ["decay_steps", "int", "'ten'"]),
        ("piecewise_constant", {"init_value": 0.1, "boundaries_and_scales": {"half": 0.1}}, ["{step: scale}", "half"]),
        ("piecewise_constant", {"init_value": 0.1, "boundaries_and_scales": [[5]]}, ["pairs [step, scale]", "[[5]]"]),
        ("piecewise_constant", {"init_value": 0.1, "boundaries_and_scales": {5: -1.0}}, ["non-negative"]),
        ("piecewise_constant", {"init_value": 0.1, "boundaries_and_scales": [[5, float("nan")]]}, ["finite number"]),
        ("constant", {"value": float("inf")}, ["value of schedule 'constant", "a finite number, found inf"]),
        ("linear", {"init_value": 0.1, "end_value": -0.1, "transition_steps": 2}, ["end_value of", "a number from 0"]),
        ("linear", {"init_value": 0.1, "end_value": 0.0, "transition_steps": 0}, ["transition_steps of", "from 1"]),
        ("warmup_constant", {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": -5}, ["warmup_steps of", "from 0"]),
        ("cosine_onecycle", {"peak_value": 0.1, "transition_steps": 9, "pct_start": 3}, ["pct_start of", "0 to 1"]),
        ("cosine_onecycle", {"peak_value": 0.1, "transition_steps": 9, "div_factor": 0.0}, ["div_factor", "above 0"]),
        (
            "warmup_cosine_decay",
            {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 500, "decay_steps": 4},
            ["warmup_steps of", "below its decay_steps", "are 4, found 500", "shorter warmup"],
        ),
        ("join", {"schedules": [abs, abs], "boundaries": [4, 9]}, ["boundaries of", "should be 1", "found [4, 9]"]),
        ("join", {"schedules": [abs, abs, abs], "boundaries": [9, 4]}, ["boundaries of", "rising", "found [9, 4]"]),
    ],
)
def test_mistakes_are_told_in_one_line(name, options, words):
    with pytest.raises(ConfigError) as caught:
        FACTORIES[name](**options)
    assert all(word in str(caught.value) for word in words)
