"""Presets of `debug` that make a run short. They are applied to a composed config, over what an experiment sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from framework.config.settings import Debug, Train
from framework.errors import ConfigError
from framework.keys import flat

ROUND = 20
"""Steps of `debug.overfit` between two evaluations of its batch."""

REHEARSED = 2
"""Steps of `debug.fast`: one, and one after the run went on from its checkpoint."""


def periods(source: Mapping[str, Any]) -> dict[str, int]:
    """Return the keys of a config's source that its presets set, by dotted key: all of them are periods."""
    debug = source.get("debug")
    if not isinstance(debug, Mapping):
        return {}
    if debug.get("fast") is True:
        others = flat({section: source.get(section) for section in ("callbacks", "probes")})
        train = ("train.log_every", "train.eval_every", "train.checkpoint_every")
        return dict.fromkeys([*train, *(key for key in others if key.endswith(".every"))], 1)
    if debug.get("overfit") is not None:
        return {"train.log_every": 1, "train.eval_every": ROUND, "train.checkpoint_every": 0}
    return {}


SHORTEST_EVAL = 10
"""Updates between two evaluations at least, by default: one often costs as much as several updates."""


def total_steps(train: Train, debug: Debug, steps_per_epoch: int) -> int:
    """Return the number of updates of a run."""
    wanted = debug.overfit or train.steps or (train.epochs or 1) * steps_per_epoch
    limits = (debug.limit, REHEARSED if debug.fast else None)
    return min([wanted, *(each for each in limits if each is not None)])


def eval_period(train: Train, total: int, steps_per_epoch: int) -> int:
    """Return the updates between two evaluations: as chosen, or an epoch, or a tenth of the run where that is less.

    An epoch is what most people count in. A tenth is the least that a curve needs to show its form. Fewer than
    `SHORTEST_EVAL` they never are by default, since an epoch may be a single step.
    """
    if train.eval_every is not None:
        return train.eval_every
    return max(SHORTEST_EVAL, min(steps_per_epoch, math.ceil(total / 10)))


def check_profile(debug: Debug, total: int) -> None:
    """Check the steps of `debug.profile` against the number of updates of a run.

    Raises: ConfigError if there are no such steps.
    """
    if debug.profile is None:
        return
    first, last = debug.profile
    if not 1 <= first <= last or first > total:
        text = f"expected the first and the last of {total} steps, found [{first}, {last}]"
        raise ConfigError(
            f"{text}; take such as debug.profile=[{min(total, 11)},{min(total, 20)}].", key="debug.profile"
        )
