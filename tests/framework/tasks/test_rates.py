"""A schedule that leaves the finite numbers from 0 is refused before its run begins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from framework.errors import ConfigError
from framework.tasks.rates import check_rates
from framework.testing import message, train

PLUGIN = """
import jax.numpy as jnp


def falling(by: float = 0.1):
    return lambda step: jnp.float32(1) - by * jnp.asarray(step, jnp.float32)
"""


@pytest.mark.parametrize("steps", [1, 7, 5000])
@pytest.mark.parametrize("rate", [lambda step: jnp.float32(0.1), lambda step: 0.1, lambda step: 1.0 - step / 5000])
def test_sound_rates_pass(rate, steps):
    with jax.numpy_dtype_promotion("standard"):
        check_rates(rate, steps, "schedule 'mine'")


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (lambda step: 1.0 - 2 * step, "gives the rate -1 at step 2 of 100,"),
        (lambda step: jnp.where(step == 99, jnp.nan, 1.0), "gives the rate nan at step 100 of 100,"),
        (lambda step: 1.0 / step, "gives the rate inf at step 1 of 100,"),
    ],
)
def test_others_are_refused_at_the_first_step_of_them(rate, words):
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ConfigError) as caught:
        check_rates(rate, 100, "schedule 'mine' (acme 1.0)")
    assert message(caught).startswith(f"schedule: schedule 'mine' (acme 1.0) {words}")


def test_a_run_of_them_does_not_begin(tmp_path, install):
    install("acme", {"framework.schedules": {"falling": "acme_rates:falling"}}, {"acme_rates.py": PLUGIN})
    with pytest.raises(ConfigError, match=r"schedule 'falling' \(acme 1.0\) gives the rate -0.1 at step 12 of 12"):
        train(tmp_path, "schedule=falling", "train.steps=12")
    assert train(tmp_path, "schedule=falling", "schedule.by=0.01", "train.steps=12").status == "done"
