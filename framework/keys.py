"""Dotted keys of nested mappings, such as configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(node: Any, prefix: str = "", *, lists: bool = False) -> dict[str, Any]:
    """Return the leaves of a nested mapping by dotted key: `{"a": {"b": 1}}` as `{"a.b": 1}`.

    Args:
      node: mappings in mappings.
      prefix: of all keys.
      lists: take lists apart too, as "a[0]"; by default they are leaves.
    """
    if isinstance(node, Mapping):
        items = {f"{prefix}.{name}" if prefix else str(name): value for name, value in node.items()}
    elif lists and isinstance(node, list | tuple):
        items = {f"{prefix}[{index}]": value for index, value in enumerate(node)}
    else:
        return {prefix: node}
    return {key: leaf for name, value in items.items() for key, leaf in flat(value, name, lists=lists).items()}
