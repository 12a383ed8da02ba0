"""What a run folder holds that a run can go on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from framework.api import TrainState
from framework.checkpoints import checkpoint
from framework.checkpoints.folder import set_aside, steps
from framework.config.resolve import flat
from framework.config.safe_load import load_json
from framework.contracts import updates
from framework.distributed import coordination
from framework.errors import ConfigError, MismatchError, StorageError
from framework.runs import signals

LOGGER = logging.getLogger("framework")

FREE = ("train.", "run.", "callbacks.", "debug.", "strategy.")
"""Sections that may differ after a resume: they say how long and how a run runs, not what it computes."""


KINDS = {
    "config": dict,
    "name": str,
    "started": str,
    "step": int,
    "total_steps": int,
    "metrics": dict,
    "versions": dict,
    "resumed": list,
    "owed": dict | None,
    "members": list | None,
}
"""What of `run.json` is read back, and of which type it must be."""


class Recorded(NamedTuple):
    """A run folder and its `run.json`."""

    directory: Path
    entry: Mapping[str, Any]


def read(directory: Path) -> Recorded:
    """Read a run's record.

    Raises: StorageError if the folder holds none.
    """
    try:
        entry = load_json(directory / "run.json")
        if not isinstance(entry, dict) or "config" not in entry:
            raise ValueError("it is not complete")
        for name, kind in KINDS.items():
            if name in entry and not isinstance(entry[name], kind):
                raise ValueError(f"its '{name}' is {str(entry[name])[:40]!r}")
    except (OSError, ValueError) as error:
        raise StorageError(f"{directory} is not a run folder: its run.json cannot be read ({error}).") from error
    return Recorded(directory, entry)


def newest_state(directory: Path, shapes: TrainState) -> TrainState | None:
    """The newest state that can be trusted; damaged ones are set aside as `<step>.damaged`, and said to be.

    Of several processes each reads what its devices need; what one of them cannot read, none uses.

    Args:
      directory: the run folder.
      shapes: the state that the run's config leads to, as `jax.ShapeDtypeStruct` leaves, with shardings or without.

    Returns: None if there is none.

    Raises: MismatchError if a sound one is of another model or optimizer.
    """
    folder = directory / "checkpoints"
    for step in reversed(coordination.agree(lambda: steps(folder))):
        try:
            return coordination.together(lambda step=step: _state_of(folder / str(step), step, shapes))
        except MismatchError:
            raise
        except StorageError as error:
            coordination.agree(lambda step=step, error=error: _set_aside(folder / str(step), error))
    return None


def _state_of(path: Path, step: int, shapes: TrainState) -> TrainState:
    state = checkpoint.restore(path, shapes, whole=True)
    if updates(state) != step:
        raise StorageError(f"checkpoint {path} holds the state of step {updates(state)}.")
    return state


def _set_aside(path: Path, error: StorageError) -> None:
    LOGGER.warning(f"{error} It is set aside; an older one is tried.")
    set_aside(path)


def check_unchanged(before: Mapping[str, Any], after: Mapping[str, Any], force: bool) -> None:
    """Compare the recorded config with the one to go on with.

    Raises: ConfigError naming the keys that would make it another run, unless forced.
    """
    old, new = flat(before), flat(after)
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key) and _counts(key))
    if changed and not force:
        listed = ", ".join(f"{key} ({old.get(key)!r} to {new.get(key)!r})" for key in changed)
        raise ConfigError(f"resume would change what the run computes: {listed}; add --force if that is meant.")


def is_finished(entry: Mapping[str, Any], step: int, total_steps: int) -> bool:
    """Whether a run came to its end, by its last step or by a callback, holds that state still, and is not extended."""
    return step > total_steps or (entry.get("exit_code") == 0 and _ended_at(entry, step, total_steps))


def owed(entry: Mapping[str, Any], step: int) -> dict[str, Any] | None:
    """The evaluation of a step that a signal cut short: the step, and the metrics until then; None if there is none."""
    known = entry.get("owed")
    return known if known and known.get("step") == step and isinstance(known.get("metrics"), dict) else None


def ending(entry: Mapping[str, Any], step: int, total_steps: int) -> dict[str, Any] | None:
    """The end of a run that made its last step and was stopped before that was recorded; None if more is left to do.

    It has the reason of an early end ("" after the last step), the step, and the metrics: the last value of every tag.
    """
    known = entry.get("ending")
    if owed(entry, step):
        return None
    if known and _ended_at({**entry, **known}, step, total_steps) and known["reason"] not in signals.NAMES:
        return known
    return {"reason": "", "step": step, "metrics": entry.get("metrics") or {}} if step >= total_steps else None


def _ended_at(entry: Mapping[str, Any], step: int, total_steps: int) -> bool:
    return entry.get("step") == step and entry.get("total_steps", 0) >= total_steps


def _counts(key: str) -> bool:
    """Whether a key says what a run computes."""
    return not key.startswith(FREE) or key.startswith(("strategy.members", "strategy.order"))


def warn_of_versions(entry: Mapping[str, Any]) -> None:
    """Say which packages are not those that the run began with: its bits may differ from here on."""
    recorded = entry.get("versions", {})
    changed = [f"{name} {then} is {now}" for name, then in recorded.items() if (now := _installed(name)) != then]
    if changed:
        LOGGER.warning(f"versions differ from the run record: {', '.join(changed)}; numbers may differ slightly.")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
