"""Diagnosis of a step: the place where the first number that is not finite was born, and how far it came."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from framework.trees import leaves_by_path
from framework_replay.case import Case
from framework_replay.operation import Operation, find_operation
from framework_replay.watching import Figures, Watched, watch

First = Literal["data", "state", "loss", "gradient", "update", "nothing"]
"""Parts of a step: its inputs, the state before it, the loss (with the layers before it), gradients, the new state."""


class Fate(NamedTuple):
    """One end of a number that is not finite, in a layer."""

    path: str
    direction: str
    what: Literal["born", "masked", "reached"]


class Diagnosis(NamedTuple):
    """The finding of a replay.

    Attributes:
      first: the part of the step that was not finite first.
      path: of the layer, such as "model/1_Dense"; "loss" and "optimizer" are layers too; a leaf's path for a state.
      direction: "forward" or "backward".
      position: number of the layer in the order of the forward pass, from 0; None for what is no layer.
      device: which part of the batch, where the step ran on several.
      value: the figures of the first such value; None where only the new state holds it.
      operation: the one that made it.
      fates: where such numbers were born, where a layer masked them, and whether they reached the loss.
      watched: all values of the step.
    """

    first: First
    path: str
    direction: str
    position: int | None
    device: int | None
    value: Figures | None
    operation: Operation | None
    fates: list[Fate]
    watched: Watched


def diagnose(case: Case) -> Diagnosis:
    """Run a step op by op, and find the first number that is not finite."""
    watched = watch(case)
    seen = watched.seen
    index = next((i for i, value in enumerate(seen) if value.is_bad and not value.path.startswith("metrics.")), None)
    if index is None:
        return _of_state(case, watched)
    value = seen[index]
    first, path = _blamed(seen, index)
    operation = None
    if first not in ("data", "state"):
        kind = "nan" if value.nans else "inf"
        sound = index - (value.device or 0)  # the parts of several devices are seen together
        operation = find_operation(case, sound, kind, value.direction == "backward")
    return Diagnosis(
        first, path, value.direction, _position(seen, path), value.device, value, operation, _fates(seen), watched
    )


def _blamed(seen: list[Figures], index: int) -> tuple[First, str]:
    """Return the part of the step, and the layer, that the first value which is not finite comes from."""
    value = seen[index]
    if value.direction == "backward":
        if value.part != "outputs":
            return "gradient", value.path
        # A layer's outputs get their gradient from what takes them, which was seen before.
        return "gradient", next((each.path for each in reversed(seen[:index]) if each.path != value.path), value.path)
    if _is_optimizer(value.path):
        return ("update" if value.part == "outputs" else "gradient"), value.path
    if value.part == "params":
        return "state", value.path
    if value.part == "inputs":
        earlier = [each.path for each in seen[:index] if each.part == "outputs"]
        return ("loss", earlier[-1]) if earlier else ("data", "inputs")
    return "loss", value.path


def _of_state(case: Case, watched: Watched) -> Diagnosis:
    """Look for a number that is not finite in the new state, where no layer and no update has one."""
    before, after = leaves_by_path(case.state), leaves_by_path(watched.after)
    lost = [
        path
        for path, leaf in after.items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
        and not np.isfinite(np.asarray(leaf, np.float64)).all()
        and np.isfinite(np.asarray(before[path], np.float64)).all()
    ]
    if not lost:
        return Diagnosis("nothing", "", "forward", None, None, None, None, _fates(watched.seen), watched)
    path = lost[0]
    is_update = path.startswith(("params", "opt_state"))
    operation = find_operation(case, len(watched.seen) if is_update else 0, "inf" if is_update else "nan", False)
    if operation is None:
        operation = find_operation(case, 0, "nan", False)
    return Diagnosis("update", path, "forward", None, None, None, operation, _fates(watched.seen), watched)


def _is_optimizer(path: str) -> bool:
    return path.partition("/")[0].endswith("optimizer")


def layers(seen: list[Figures]) -> list[str]:
    """Return the paths of all layers in the order of the forward pass; a stack follows the layers in it."""
    return list(dict.fromkeys(each.path for each in seen if each.direction == "forward" and each.part == "outputs"))


def _position(seen: list[Figures], path: str) -> int | None:
    inner = [each for each in layers(seen) if "/" in each]
    return inner.index(path) if path in inner else None


def _fates(seen: list[Figures]) -> list[Fate]:
    """Follow numbers that are not finite through the forward pass."""
    fates: list[Fate] = []
    entered: dict[tuple[str, int | None], bool] = {}
    for value in seen:
        if value.direction != "forward" or value.path.startswith("metrics.") or _is_optimizer(value.path):
            continue
        place = value.path, value.device
        if value.part == "inputs":
            entered[place] = value.is_bad
        elif value.part == "outputs":
            is_new = value.is_bad and not entered.get(place, False)
            # A stack holds the layers in it, which were told already.
            if is_new and not any(fate.path.startswith(f"{value.path}/") for fate in fates):
                fates.append(Fate(value.path, "forward", "born"))
            if entered.get(place, False) and not value.is_bad:
                fates.append(Fate(value.path, "forward", "masked"))
            if value.is_bad and value.path == "loss":
                fates.append(Fate("loss", "forward", "reached"))
    return list(dict.fromkeys(fates))
