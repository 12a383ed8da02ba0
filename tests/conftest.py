"""JAX as the tests want it: two CPU devices and strict dtype promotion, set before the first use of JAX."""

from __future__ import annotations

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def key():
    return jax.random.key(0)
