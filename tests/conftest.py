"""JAX as the tests want it: two CPU devices and strict dtype promotion, set before the first use of JAX."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax
import pytest

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "framework-tests-jax"))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
# Most programs of the tests are tiny, and many are compiled again and again: by each worker, file and process.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def key():
    return jax.random.key(0)
