"""Decisions of a run that goes on: from which state, whether that is allowed, and what is left to do."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from framework.api import TrainState
from framework.checkpoints.checkpoint import read_newest, restore_state
from framework.checkpoints.folder import set_aside, steps
from framework.distributed import coordination
from framework.errors import ConfigError, StorageError
from framework.keys import flat
from framework.runs import signals
from framework.runs.logs import LOGGER
from framework.runs.record import RunRecord

FREE = ("train.", "run.", "callbacks.", "debug.", "strategy.")
"""Sections that may differ after a resume: they say how long and how a run runs, not what it computes."""


def newest_state(directory: Path, like: TrainState, run: str = "") -> TrainState | None:
    """Return the newest state of a run that can be trusted; damaged ones are set aside as `<step>.damaged`.

    Of several processes each reads what its devices need. If one of them cannot read a state, none uses it.

    Args:
      directory: the run folder.
      like: the state that the run's config leads to, as `jax.ShapeDtypeStruct` leaves, with shardings or without.
      run: id of the run; checkpoints of another run are set aside too.

    Returns: None if there is none.

    Raises: MismatchError if a sound one is of another model or optimizer.
    """
    folder = directory / "checkpoints"

    def read(step: int) -> TrainState:
        return coordination.together(lambda: restore_state(folder, step, like, whole=True, run=run))

    def reject(step: int, error: StorageError) -> None:
        LOGGER.warning(f"{error} It is set aside; an older one is tried.")
        coordination.agree(lambda: set_aside(folder / str(step)))

    return read_newest(coordination.agree(lambda: steps(folder)), read, reject)


def check_unchanged(before: Mapping[str, Any], after: Mapping[str, Any], force: bool) -> None:
    """Compare the recorded config with the one to go on with.

    Raises: ConfigError naming the keys that would make it another run, unless forced.
    """
    old, new = flat(before), flat(after)
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key) and _matters(key))
    if changed and not force:
        listed = ", ".join(f"{key} ({old.get(key)!r} to {new.get(key)!r})" for key in changed)
        raise ConfigError(f"resume would change what the run computes: {listed}; add --force if that is meant.")


def _matters(key: str) -> bool:
    """Return whether a key decides what a run computes."""
    return not key.startswith(FREE) or key.startswith(("strategy.members", "strategy.order"))


def is_finished(record: RunRecord, step: int, total_steps: int) -> bool:
    """Return whether a run came to its end, by its last step or by a callback, and is not extended.

    Args:
      step: of the newest saved state.
      total_steps: of the config to go on with.
    """
    return step > total_steps or (record.exit_code == 0 and record.step == step and record.total_steps >= total_steps)


def pending_end(record: RunRecord, step: int, total_steps: int) -> dict[str, Any] | None:
    """Return the recorded end of a training that a callback ended, if the run goes on from there; else None."""
    known = record.ending
    if not known or known.get("step") != step or known.get("reason") in signals.NAMES:
        return None
    return known if record.total_steps >= total_steps else None


def warn_of_versions(record: RunRecord) -> None:
    """Log which packages differ from those that the run began with: its bits may differ from here on."""
    changed = [f"{name} {then} is {now}" for name, then in record.versions.items() if (now := _installed(name)) != then]
    if changed:
        LOGGER.warning(f"versions differ from the run record: {', '.join(changed)}; numbers may differ slightly.")


def _installed(name: str) -> str:
    try:
        return version(name)
    except (PackageNotFoundError, ValueError):
        return "missing"
