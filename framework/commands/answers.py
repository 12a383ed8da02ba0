"""Answers of verbs as JSON: one place, so that numbers, tuples and paths look alike in all of them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_json(value: Any) -> None:
    """Show a value as JSON on stdout, as `plain` makes it."""
    sys.stdout.write(f"{json_of(value)}\n")


def json_of(value: Any) -> str:
    """Write a value as indented JSON, as `plain` makes it; a terminal obeys nothing in it."""
    return json.dumps(plain(value), indent=2, default=str, allow_nan=False)


def plain(value: Any) -> Any:
    """Make a value of what JSON holds: named tuples become mappings, and paths texts.

    Numbers that are not finite become texts, "NaN", "Infinity" and "-Infinity", as `metrics.jsonl` has them.
    """
    if isinstance(value, tuple) and (fields := getattr(value, "_fields", None)) is not None:
        return {name: plain(each) for name, each in zip(fields, value, strict=True)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value
