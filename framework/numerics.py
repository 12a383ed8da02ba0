"""Settings of JAX and XLA that change the bits of a run, wherever they were set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

SWITCHES = (
    "jax_default_prng_impl",
    "jax_default_matmul_precision",
    "jax_threefry_partitionable",
    "jax_enable_x64",
)
"""Settings of JAX that decide random numbers, and in what floats are computed."""

HARMLESS = ("--xla_dump", "--xla_force_host_platform_device_count")
"""Beginnings of flags that change no bits, or, as the number of devices, are compared by themselves."""


def numeric_settings() -> dict[str, Any]:
    """Return the settings in force, by name: those of `SWITCHES`, and "XLA_FLAGS" in the order of the alphabet."""
    import jax  # so that the registry can import this without it

    flags = sorted(flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(HARMLESS))
    return {name: getattr(jax.config, name) for name in SWITCHES} | {"XLA_FLAGS": " ".join(flags)}


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Describe by name the recorded settings that have another value, such as "False is True"."""
    changed = [name for name in before if before[name] != after.get(name)]
    return {name: f"{_word(before[name])} is {_word(after.get(name))}" for name in changed}


def _word(value: Any) -> str:
    return "none" if value in (None, "") else str(value)
