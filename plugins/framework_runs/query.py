"""Conditions and orders of a list of runs: `eval/accuracy>0.99`, `optimizer.learning_rate=0.001`, `status=done`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from framework.errors import ConfigError, nearest
from framework_runs.naming import label, seed_of, shortened
from framework_runs.reading import Run

FACTS: dict[str, Callable[[Run], Any]] = {
    "status": lambda run: run.status,
    "name": lambda run: str(run.record.get("name") or ""),
    "label": label,
    "seed": seed_of,
    "debug": shortened,
    "step": lambda run: run.step,
    "seconds": lambda run: run.seconds,
    "started": lambda run: run.started,
    "folder": lambda run: str(run.folder),
}
"""Facts of a run that a condition may name, beside tags of metrics and keys of the config."""

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "=": operator.eq,
}

_CONDITION = re.compile(r"\s*(.+?)\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)


class Condition(NamedTuple):
    """A comparison of what a run has under a key."""

    key: str
    sign: str
    value: str

    def holds(self, run: Run) -> bool:
        """Tell whether a run fulfils it; one that has nothing under the key fulfils `=null`, and `!=` all else.

        Raises: ConfigError if a number is to be ordered against a text.
        """
        found = value_of(run, self.key)
        if found is None:
            is_null = self.value in ("null", "None")
            return not is_null if self.sign == "!=" else is_null and self.sign in ("=", "==")
        number = _number(self.value)
        if isinstance(found, int | float) and not isinstance(found, bool):
            if number is not None:
                return COMPARISONS[self.sign](float(found), number)
            if self.sign[0] in "<>":
                text = f"--where: expected a number after '{self.key}{self.sign}', found '{self.value}'"
                raise ConfigError(f"{text}; give a further condition by a further --where.")
        return COMPARISONS[self.sign](_as_typed(found), _as_typed(self.value, type(found)))


def condition(text: str) -> Condition:
    """Read a condition such as `eval/accuracy>0.99`.

    Raises: ConfigError for a text without a comparison, or with a sign such as `=>`.
    """
    found = _CONDITION.fullmatch(text)
    if found is None or found[3].startswith(("<", ">", "=")):
        raise ConfigError(f"--where: expected a comparison such as 'eval/accuracy>0.99', found {text!r}.")
    return Condition(*found.groups())


def value_of(run: Run, key: str) -> Any:
    """Return a fact, the last value of a metric, or a value of the config; None if a run has none of that key."""
    if key in FACTS:
        return FACTS[key](run)
    if key in run.metrics:
        return run.metrics[key]
    return run.config.get(key, run.config.get(f"{key}.name"))


def check_keys(keys: Sequence[str], runs: Sequence[Run]) -> None:
    """Check that each key is known to a run at least.

    Raises: ConfigError naming the first other one, with the nearest that is known.
    """
    known = {*FACTS, *(key for run in runs for key in (*run.metrics, *run.config))}
    for key in keys:
        if key not in known and not any(f"{key}.name" in run.config for run in runs):
            raise ConfigError(f"no run has '{key}', as fact, metric or key of the config.{nearest(key, known)}")


def ordered(runs: Sequence[Run], key: str, is_reversed: bool) -> list[Run]:
    """Sort runs by a key: a metric that has a direction from its best value on, all else from low to high.

    Runs that have no such value, or one that is not finite, are last in either order. Before them come, by a metric,
    runs that a preset of `debug` cut short: they are never the best.
    """
    values = [(run, value_of(run, key)) for run in runs]
    has = [(run, value) for run, value in values if value is not None and not _is_lost(value)]
    rest = [run for run, value in values if value is None or _is_lost(value)]
    descends = any(key in run.metrics and run.is_high_better(key) for run in runs) != is_reversed
    is_numeric = all(isinstance(value, int | float) for _, value in has)
    has.sort(key=lambda each: each[1] if is_numeric else str(each[1]), reverse=descends)
    has.sort(key=lambda each: key in each[0].metrics and shortened(each[0]) is not None)
    return [run for run, _ in has] + rest


def _is_lost(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _as_typed(value: Any, kind: type | None = None) -> str:
    """Return a value as it is typed, so that True is `true`, and a list has neither spaces nor quotes.

    Args:
      kind: type of the value that a text stands for; None takes its own.
    """
    kind = kind or type(value)
    if kind is list:
        return re.sub(r"[\s'\"]", "", str(value))
    return str(value).lower() if kind is bool else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
