"""Sizes in bytes as people write them: 8GiB, 500MB, 4096."""

from __future__ import annotations

import re

from framework.errors import ConfigError

UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", 1)
    for suffix, base in (("iB", 1024), ("", 1024), ("B", 1000))
}


def bytes_of(size: int | str, key: str) -> int:
    """Return the bytes of a size; `K`, `M`, `G`, `T` alone count in 1024s, as `KiB` does, and `KB` in 1000s.

    Raises: ConfigError of `key` if it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(size).strip())
    by_name = {name.lower(): unit for name, unit in UNITS.items()}
    if found is None or found[2].lower() not in by_name:
        raise ConfigError(f"expected a size such as 2GiB or 500MB, found '{size}'.", key=key)
    return int(float(found[1]) * by_name[found[2].lower()])


def in_words(size: float) -> str:
    """Write a size with a unit, such as "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
