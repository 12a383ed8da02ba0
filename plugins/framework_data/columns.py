"""Rows of a table as inputs of a trained model, made as `arrays` makes them of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from framework.errors import ConfigError, nearest


def columns(fields: Any, dtypes: Any) -> Callable[[Any], Any]:
    """Turn rows of a table, or arrays by name, into inputs, float32 or int32, as in training.

    Raw inputs are a mapping from names to columns [B] or arrays [B, ...], or a list of mappings, one for each row, as
    `csv.DictReader` yields them; names that are not needed are left out. Where inputs are one array it may be given by
    itself: [B, columns], in the order of `fields`.

    Args:
      fields: for each leaf of the inputs the name of its array, or a list of names to be set side by side.
      dtypes: of the same leaves, "float32" or "int32".

    Raises: ConfigError, when called, if a name is missing, or a value is no finite number that fits.
    """

    def preprocess(raw: Any) -> Any:
        if isinstance(raw, list) and raw and all(isinstance(row, Mapping) for row in raw):
            raw = {name: [row[name] for row in raw] for name in raw[0] if all(name in row for row in raw)}
        return _made(raw, fields, dtypes)

    return preprocess


def _made(raw: Any, fields: Any, dtypes: Any) -> Any:
    if isinstance(fields, Mapping):
        return {key: _made(raw, fields[key], dtypes[key]) for key in fields}
    if isinstance(fields, str):
        return _numbers(fields, raw[_known(fields, raw)] if isinstance(raw, Mapping) else raw, dtypes)
    if not isinstance(raw, Mapping):
        table = np.asarray(raw)
        if table.ndim != 2 or table.shape[1] != len(fields):
            named = f"[B, {len(fields)}] of {', '.join(fields)}"
            raise ConfigError(f"expected rows {named}, found {list(table.shape)}.")
        raw = dict(zip(fields, table.T, strict=True))
    return np.stack([_numbers(name, raw[_known(name, raw)], dtypes) for name in fields], axis=1)


def _known(name: str, raw: Mapping[str, Any]) -> str:
    if name not in raw:
        raise ConfigError(f"found nothing called '{name}' in every row, expected it.{nearest(name, raw)}")
    return name


def _numbers(name: str, values: Any, dtype: str) -> np.ndarray:
    """Cast values to a dtype; texts are read as numbers."""
    numbers = np.asarray(values)
    try:
        numbers = numbers.astype(np.float64) if numbers.dtype.kind in "US" else numbers
    except ValueError as error:
        raise ConfigError(f"'{name}' holds texts that are no numbers: {error}.") from error
    if numbers.dtype.kind not in "biuf":
        raise ConfigError(f"'{name}' has dtype {numbers.dtype}, expected real numbers.")
    limits = np.finfo(np.float32) if dtype == "float32" else np.iinfo(np.int32)
    if not (np.isfinite(numbers) & (numbers >= limits.min) & (numbers <= limits.max)).all():
        raise ConfigError(f"'{name}' holds values that are not finite or beyond {dtype}.")
    if dtype == "int32" and not np.array_equal(numbers, np.rint(numbers)):
        raise ConfigError(f"'{name}' holds fractions, expected whole numbers as in training.")
    return numbers.astype(dtype)
