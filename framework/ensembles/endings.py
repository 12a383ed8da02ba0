"""Members that end before the others: they stay as they are while the program of all goes on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import jax
import numpy as np

from framework.api import TrainState, Undefined


def counted_on(state: TrainState, members: Collection[int], by: int) -> TrainState:
    """Add to the step counters of some members.

    A compiled step leaves a member as it is whose counter is behind that of the others. So a member ends by a counter
    that is one too low for one call, after which the others are ahead of its true one.

    Args:
      state: of all members, with step int32 [members].
      members: whose counters change.
      by: what is added.
    """
    if not members:
        return state
    change = np.zeros(state.step.shape, np.int32)
    change[list(members)] = by
    return state._replace(step=state.step + jax.device_put(change, state.step.sharding))


def caught_up(state: TrainState, members: Collection[int]) -> TrainState:
    """Set the step counters of some members to the largest, so that an evaluation measures them too."""
    if not members:
        return state
    steps = np.array(jax.device_get(state.step))
    steps[list(members)] = steps.max()
    return state._replace(step=jax.device_put(steps, state.step.sharding))


def mean(values: Sequence[float]) -> float:
    """Return the mean over members; the first number that is undefined stands for it."""
    return next((value for value in values if isinstance(value, Undefined)), float(np.mean(values)))


def is_of_member(tag: str, tags: Mapping[str, float]) -> bool:
    """Tell whether a tag is that of one member: `train/loss/3` beside `train/loss`."""
    head, _, tail = tag.rpartition("/")
    return tail.isdecimal() and head in tags


def with_last_values(
    scalars: Mapping[str, float], last: Mapping[str, float], ended: Collection[int]
) -> dict[str, float]:
    """Return the scalars of an evaluation with means that count the members which have ended.

    Args:
      scalars: by tag, of the members that were measured: `eval/loss/3` beside the mean `eval/loss`.
      last: the last value of every tag.
      ended: members that count by their last values.
    """
    own = [tag for tag in scalars if is_of_member(tag, scalars)]
    found = dict(scalars)
    for head in dict.fromkeys(tag.rpartition("/")[0] for tag in own):
        lasting = {tag: last[tag] for member in ended if (tag := f"{head}/{member}") in last}
        each = {**lasting, **{tag: scalars[tag] for tag in own if tag.rpartition("/")[0] == head}}
        found[head] = mean([each[tag] for tag in sorted(each, key=lambda tag: int(tag.rpartition("/")[2]))])
    return found
