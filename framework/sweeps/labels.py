"""Names of points for people. This imports nothing slow, since `framework sweep status` is to answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def label(parameters: Mapping[str, Any]) -> str:
    """Write parameters for people: "seed=0 learning_rate=0.001"."""
    return " ".join(f"{short(key)}={_shown(value)}" for key, value in parameters.items())


def short(key: str) -> str:
    """Return the last part of a key: "learning_rate"."""
    return key.lstrip("+~").rpartition(".")[2]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
