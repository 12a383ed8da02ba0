"""Hyper-parameters of a run for the HPARAMS tab."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from framework.api import flat
from framework_tensorboard.names import is_numberless

Value = bool | float | str


def hyperparameters(config: Mapping[str, Any], following: frozenset[str] = frozenset()) -> dict[str, Value]:
    """Return the numbers, words and lists of a config by dotted path: "optimizer.learning_rate".

    Integers are words: the tab would show 128 as 128.00. Lists are written out, so that `hidden: [128, 64]` is one
    hyper-parameter. Nulls are left out, as are the parts of a config that change no number of a run.

    Args:
      config: resolved.
      following: keys that only repeat another one, and are left out.
    """
    shown: dict[str, Value] = {}
    for path, value in flat(config).items():
        is_list = isinstance(value, list | tuple)
        if is_list and any(isinstance(item, Mapping | list | tuple) for item in value):
            continue
        if value is not None and path not in following and not is_numberless(path):
            shown[path] = value if isinstance(value, bool | float | str) else str(value)
    return shown


def following(path: Path) -> frozenset[str]:
    """Return the keys whose values follow others, such as "${optimizer.learning_rate}".

    Args:
      path: of `config.yaml`, which holds a config as it was written. Without such a file there are none.
    """
    if not path.is_file():
        return frozenset()
    written = flat(yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return frozenset(key for key, value in written.items() if isinstance(value, str) and value.startswith("${"))
