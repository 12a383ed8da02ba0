"""Population-based training: members of one program that take each other's states and change their values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Evolution, Goal, Interval, Members, Search, Size, Space, Strategy, Trial, stream
from framework.errors import ConfigError
from framework_searches.points import point
from framework_strategies.vmapped import over_devices

Order = Literal["own", "shared"]


def pbt(
    space: Mapping[str, Any],
    members: Size = 8,
    every: Size = 100,
    metric: str = "loss",
    share: float = 0.25,
    factors: tuple[float, float] = (0.8, 1.25),
    resample: float = 0.25,
    seed: int = 0,
    order: Order = "own",
    devices: Size = 1,
) -> Strategy:
    """Train members in one program, the worst of which go on from the states of the best, with changed values.

    So a schedule is found while one run's time is spent, and a member whose numbers were lost begins again as a good
    one. Turns are part of the compiled step, and states are copied on the device (Jaderberg et al. 2017,
    arXiv:1711.09846, with truncation selection; factors and probability are those of the paper's section 4).

    Args:
      space: for each config key its range, such as {optimizer.learning_rate: {low: 1e-4, high: 1, log: true}}.
      members: number of members; their seeds count up from the run's.
      every: updates between two turns; long enough for a change to show.
      metric: of the evaluation's first split, by which members are compared; a mean over examples.
      share: of the members that are replaced at each turn, by as many of the best; at most 0.5.
      factors: a changed value is multiplied by one of them.
      resample: probability that a value is drawn anew instead.
      seed: of the first values.
      order: whether a member's data come in the order of its own seed, or in the run's for all.
      devices: over how many local devices the members are spread.

    Raises: ConfigError for a range that is none, a share outside (0, 0.5], or fewer than 2 members.
    """
    intervals = list(_intervals(space))
    if not intervals:
        text = "expected what evolves, such as {optimizer.learning_rate: {low: 1e-4, high: 1, log: true}}"
        raise ConfigError(f"{text}; for members that stay as they are, take strategy=vmapped.", key="space")
    if members < 2:
        raise ConfigError(f"expected at least 2, found {members}.", key="members")
    if not 0 < share <= 0.5:
        raise ConfigError(f"expected a number above 0, up to 0.5, found {share}.", key="share")
    if min(factors) <= 0:
        raise ConfigError(f"expected numbers above 0, found {factors}.", key="factors")
    if not 0 <= resample <= 1:
        raise ConfigError(f"expected a probability, found {resample}.", key="resample")
    draws = np.random.default_rng(seed).random([members, len(intervals)])
    rows = [point(intervals, row) for row in draws.tolist()]
    values = {each.key: tuple(row[each.key] for row in rows) for each in intervals}
    replaced = max(1, int(members * share))
    turn = partial(evolve, intervals=intervals, replaced=replaced, factors=factors, resample=resample)
    bounds = {each.key: (each.low, each.high) for each in intervals}
    return over_devices(Members(members, values, order, Evolution(every, metric, turn, bounds)), devices)


def evolve(
    key: Array,
    scores: Array,
    values: Mapping[str, Array],
    *,
    intervals: Sequence[Interval],
    replaced: int,
    factors: tuple[float, float],
    resample: float,
) -> tuple[Array, dict[str, Array]]:
    """Replace the worst members, and all whose numbers were lost, by some of the best, and change their values.

    Args:
      key: of this turn.
      scores: float32 [members]; low ones are good, infinity is that of a member whose numbers were lost.
      values: float32 [members], by config key.
      intervals: the ranges of the values.
      replaced: number of the worst, and of the best that they are replaced by.
      factors: that a value is multiplied by, either of them.
      resample: probability that a value is drawn anew instead.

    Returns: the member that each goes on from, int32 [members], and the values.
    """
    size = len(scores)
    best = jnp.argsort(scores).astype(jnp.int32)  # stable, so that equal scores go by number
    places = jnp.zeros(size, jnp.int32).at[best].set(jnp.arange(size, dtype=jnp.int32))
    is_lost = jnp.isinf(scores)
    is_replaced = (places >= size - replaced) | is_lost
    sound = jnp.clip((~is_lost).sum().astype(jnp.int32), 1, replaced)
    drawn = best[jax.random.randint(stream(key, "sources"), (size,), 0, sound)]
    sources = jnp.where(is_replaced, drawn, jnp.arange(size, dtype=jnp.int32))
    changed = {}
    for each in intervals:
        draws = jax.random.uniform(stream(key, each.key), (3, size))
        taken = values[each.key][sources]
        factor = jnp.where(draws[0] < 0.5, jnp.float32(factors[0]), jnp.float32(factors[1]))
        other = jnp.where(draws[1] < resample, _at(each, draws[2]), taken * factor)
        other = jnp.clip(other, jnp.float32(each.low), jnp.float32(each.high))
        changed[each.key] = jnp.where(is_replaced, other, taken)
    return sources, changed


def search(
    members: Size = 8,
    every: Size = 100,
    share: float = 0.25,
    factors: tuple[float, float] = (0.8, 1.25),
    resample: float = 0.25,
    order: Order = "own",
    devices: Size = 1,
) -> Search:
    """Train one point of many members by `strategy=pbt`: population-based training, within one compiled program.

    Args:
      members: number of members.
      every: updates between two turns.
      share: of the members that are replaced at each turn, by as many of the best.
      factors: a changed value is multiplied by one of them.
      resample: probability that a value is drawn anew instead.
      order: whether a member's data come in the order of its own seed, or in the run's for all.
      devices: over how many local devices the members are spread.
    """
    chosen = {"members": members, "every": every, "share": share, "factors": list(factors), "resample": resample}
    return Population(chosen | {"order": order, "devices": devices})


class Population(Search):
    """A search for one run, which holds all members."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self._left: list[Trial] = []

    def begin(self, space: Space, goals: Sequence[Goal], seed: int) -> int:
        """Make the point.

        Raises: ConfigError for what is no interval of real numbers, or a goal that is not of the evaluation.
        """
        for each in space:
            if not isinstance(each, Interval) or each.integer:
                key = each.key if isinstance(each, Interval) else each.keys[0]
                raise ConfigError("members of one program differ in real numbers; give an interval.", key=key)
        split, _, metric = goals[0].tag.partition("/")
        if split != "eval" or not space:
            text = "expected an interval" if not space else f"expected a metric of the evaluation, found {goals[0].tag}"
            raise ConfigError(f"{text}; pbt compares members by it.", key="sweep.metric" if space else "search")
        ranges = {each.key: {"low": each.low, "high": each.high, "log": each.log} for each in space}  # pyright: ignore
        options = {"space": ranges, "metric": metric, "seed": seed, **self.options}
        overrides = {f"strategy.{name}": value for name, value in options.items()}
        self._left = [Trial({"strategy": "pbt"}, overrides=overrides)]
        return 1

    def ask(self) -> Trial | None:
        """Return the point, once."""
        return self._left.pop() if self._left else None

    @property
    def is_over(self) -> bool:
        """Tell if the point was asked for."""
        return not self._left


def _at(interval: Interval, units: Array) -> Array:
    """Return values of an interval from numbers from 0 to below 1, float32 [members]."""
    if interval.log:
        low, high = math.log(interval.low), math.log(interval.high)
        return jnp.exp(jnp.float32(low) + units * jnp.float32(high - low))
    return jnp.float32(interval.low) + units * jnp.float32(interval.high - interval.low)


def _intervals(space: Mapping[str, Any], prefix: str = "") -> Iterator[Interval]:
    """Read ranges from a mapping, which may be nested as a config is.

    Raises: ConfigError.
    """
    for name, value in space.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            text = f"expected a range such as {{low: 1e-4, high: 1, log: true}}, found {value!r}."
            raise ConfigError(text, key=f"space.{key}")
        if not {"low", "high"} & set(value):
            yield from _intervals(value, f"{key}.")
            continue
        if unknown := sorted(set(value) - {"low", "high", "log"}):
            raise ConfigError(f"a range has no '{unknown[0]}'; it has low, high and log.", key=f"space.{key}")
        low, high, log = _number(value, "low", key), _number(value, "high", key), bool(value.get("log", False))
        if not low < high or (log and low <= 0):
            text = f"expected {'0 < ' if log else ''}low < high, found {low:g} and {high:g}."
            raise ConfigError(text, key=f"space.{key}")
        yield Interval(key, low, high, log)


def _number(given: Mapping[str, Any], name: str, key: str) -> float:
    found = given.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ConfigError(f"expected a number for {name}, found {found!r}.", key=f"space.{key}")
    return float(found)
