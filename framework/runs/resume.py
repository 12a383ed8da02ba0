"""Decisions of a run that goes on: from which state, whether that is allowed, and what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Schedule, TrainState
from framework.checkpoints.checkpoint import read_newest, restore_state
from framework.checkpoints.folder import set_aside, steps
from framework.checkpoints.manifest import read_manifest
from framework.config.compose import compose
from framework.config.resolve import resolved
from framework.distributed import coordination
from framework.errors import ConfigError, DataError, MismatchError, StorageError
from framework.experiment import Experiment
from framework.keys import flat
from framework.numerics import SWITCHES, differing, numeric_settings
from framework.records.logs import LOGGER
from framework.records.record import RunRecord
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.tasks import nonfinite
from framework.training.stepper import is_to_go_on

FREE = ("train.", "run.", "callbacks.", "probes.", "debug.", "strategy.", "data.exclude")
"""Keys that may differ after a resume: they say how long and how a run runs, not what it computes; examples that are
found to be harmful may be left out from there on."""

APART = ("train.steps", "train.epochs", "run.")
"""Keys of the length and of the place of a run."""

BOUND = (
    *("strategy.members", "strategy.order", "train.accumulate", "train.skips_in_row"),
    *(f"strategy.{option}" for option in ("space", "every", "metric", "share", "factors", "resample", "seed")),
    *("debug.overfit", "debug.fast"),
)
"""Keys of those sections that do decide what a run computes, to rounding or more."""


def newest_state(directory: Path, like: TrainState, run: str = "") -> TrainState | None:
    """Return the newest state of a run that can be trusted; damaged ones are set aside as `<step>.damaged`.

    Of several processes each reads what its devices need. If one of them cannot read a state, none uses it.

    Args:
      directory: the run folder.
      like: the state that the run's config leads to, as `jax.ShapeDtypeStruct` leaves, with shardings or without.
      run: id of the run; checkpoints of another run are set aside too.

    Returns: None if there is none.

    Raises: MismatchError if a sound one is of another model or optimizer; AccessError if one cannot be read for now;
      errors of code and memory as they are: none of these sets a checkpoint aside.
    """
    folder = directory / "checkpoints"

    def restored(step: int, like: TrainState) -> TrainState:
        return coordination.together(lambda: restore_state(folder, step, like, whole=True, run=run))

    def read(step: int) -> TrainState:
        try:
            return restored(step, like)
        except MismatchError as error:
            try:  # the run may go on by another `nan_policy`, which counts what it undoes or does not
                return nonfinite.toggled(restored(step, jax.eval_shape(nonfinite.toggled, like)))
            except MismatchError:
                raise error from None

    def reject(step: int, error: StorageError) -> None:
        LOGGER.warning(f"{error} It is set aside; an older one is tried.")
        coordination.agree(lambda: set_aside(folder / str(step)))

    return read_newest(coordination.agree(lambda: steps(folder)), read, reject)


def window_at(directory: Path, step: int) -> Mapping[str, Any]:
    """Return what the checkpoint of a step holds of the metrics since the last log; {} where there is none."""
    path = directory / "checkpoints" / str(step)
    return read_manifest(path).get("window", {}) if path.exists() else {}


FOLLOWING = ("schedule", "optimizer")
"""Sections that may follow the number of steps when a run is extended."""

ENDED = 1e-3
"""Share of its highest rate up to which a schedule is at its end."""

SAMPLES = 200
"""Steps at which a schedule is looked at."""


def check_overrides(record: RunRecord, experiment: Experiment, force: bool) -> None:
    """Compare the recorded config with the one to go on with, except for sections that follow the number of steps.

    Raises: ConfigError naming the keys that would make it another run, unless forced.
    """
    config = experiment.config_for(record.total_steps or experiment.total_steps)
    kept = {section: config[section] for section in FOLLOWING if section in config}
    old, new = flat(record.config), flat({**experiment.config, **kept})
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key) and _matters(key))
    if any(key not in old for key in changed):  # of a version that did not have the key, whose default changes nothing
        defaults = flat(compose([]).values)
        changed = [key for key in changed if key in old or new[key] != defaults.get(key)]
    if changed and not force:
        listed = ", ".join(_change(key, old, new) for key in changed)
        raise ConfigError(f"resume would change what the run computes: {listed}; add --force if that is meant.")


def without_effect(record: RunRecord, experiment: Experiment) -> str:
    """List the keys that differ from those of a run in which nothing is left to do, beside its length and place."""
    old, new = flat(record.config), flat(experiment.config)
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key) and not key.startswith(APART))
    return ", ".join(_change(key, old, new) for key in changed)


def _change(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = (repr(each[key]) if key in each else "its default" for each in (old, new))
    return f"{key} ({before} to {after})"


def keeping_debug(record: RunRecord, experiment: Experiment) -> Experiment:
    """Return the experiment with the recorded section `debug` in its config: an override of it is for one process."""
    recorded = record.config.get("debug")
    if not isinstance(recorded, dict):
        return experiment
    configs = ({**each, "debug": recorded} for each in (experiment.config, experiment.source))
    return experiment._replace(**dict(zip(("config", "source"), configs, strict=True)))


def _matters(key: str) -> bool:
    """Tell whether a key decides the numbers of a run."""
    return not key.startswith(FREE) or key.startswith(BOUND)


def check_rates(record: RunRecord, experiment: Experiment, step: int, force: bool) -> None:
    """Log a learning rate that jumps where a run goes on, since its schedule has changed or follows more steps.

    Raises: ConfigError if the steps that extend the run would have a rate of nearly 0, unless forced.
    """
    before, now = _schedule(record.config), _schedule(experiment.config)
    if now is None or before is None:
        return
    former, total = record.total_steps, experiment.total_steps
    old, new = _schedule_options(record.config), _schedule_options(experiment.config)
    if old != new:
        rates = [float(_rates(schedule, [step])[0]) for schedule in (before, now)]
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        listed = ", ".join(f"{key} {old.get(key)} to {new.get(key)}" for key in keys)
        LOGGER.info(f"the learning rate at step {step} was {rates[0]:.4g}, and is {rates[1]:.4g} from here ({listed})")
    elif former < total and not force:
        highest, rest = _rates(now, range(former)).max(initial=0), _rates(now, range(former, total)).max()
        if rest < ENDED * highest:
            text = f"'{new.get('schedule.name')}' is at its end: the rate beyond step {former} is at most {rest:.3g}"
            text += f", of {highest:.3g} before; give it more steps, or add --force if that is meant."
            raise ConfigError(text, key="schedule")


def _schedule_options(config: Mapping[str, Any]) -> dict[str, Any]:
    return flat(resolved(config).get("schedule"), "schedule")


def _schedule(config: Mapping[str, Any]) -> Schedule | None:
    """Return the schedule of a resolved config, of several members that of the first; None if no optimizer takes it."""
    values = resolved(config)
    optimizer, schedule = values.get("optimizer"), values.get("schedule")
    if not optimizer or not schedule or ("learning_rate" not in optimizer and schedule == {"name": "constant"}):
        return None
    return Builder(discover()).named("schedules", schedule, "schedule")


def _rates(schedule: Schedule, steps: Sequence[int]) -> np.ndarray:
    """Return the rates of at most `SAMPLES` of the steps, spread evenly, float [N]."""
    chosen = steps[:: -(-len(steps) // SAMPLES)] if steps else []
    return np.asarray(jax.vmap(schedule)(jnp.asarray(chosen, jnp.int32))) if len(chosen) else np.zeros(0)


def is_finished(record: RunRecord, step: int, total_steps: int) -> bool:
    """Return whether a run came to its end, by its last step or by a callback, and is not extended.

    Args:
      step: of the newest saved state.
      total_steps: of the config to go on with.
    """
    has_ended = record.exit_code == 0 and record.step == step and not is_to_go_on(record.reason)
    return step > total_steps or (has_ended and record.total_steps >= total_steps)


def pending_end(record: RunRecord, step: int, total_steps: int) -> dict[str, Any] | None:
    """Return the recorded end of a training that a callback ended, if the run goes on from there; else None."""
    known = record.ending
    if not known or known.get("step") != step or is_to_go_on(known.get("reason")):
        return None
    return known if record.total_steps >= total_steps else None


def warn_of_versions(record: RunRecord) -> None:
    """Log which packages differ from those that the run began with: its bits may differ from here on."""
    changed = [f"{name} {then} is {now}" for name, then in record.versions.items() if (now := _installed(name)) != then]
    if changed:
        LOGGER.warning(f"versions differ from the run record: {', '.join(changed)}; numbers may differ slightly.")


def check_numerics(record: RunRecord, force: bool) -> None:
    """Compare the settings of JAX and XLA with those of the run; unlike flags of XLA are logged.

    Raises: ConfigError naming the settings of JAX that would make other numbers, unless forced.
    """
    changed = differing(record.numerics, numeric_settings())
    listed = ", ".join(f"{name} {values}" for name, values in changed.items() if name in SWITCHES)
    if listed and not force:
        text = (
            f"resume would make other numbers: {listed}; set the environment, such as {_variable(changed)}, as it was"
        )
        raise ConfigError(f"{text}, or add --force if that is meant.")
    if changed:
        listed = ", ".join(f"{name} {values}" for name, values in changed.items())
        LOGGER.warning(f"settings differ from the run record: {listed}; numbers may differ.")


def check_data(former: RunRecord, record: RunRecord, force: bool) -> None:
    """Compare each split of the data with that of the run. A stream, of which only one batch is known, is only told.

    Raises: DataError naming the split that has changed, unless forced.
    """
    for split in sorted({*former.splits, *record.splits}) if former.splits else ():
        before, now = former.splits.get(split) or {}, record.splits.get(split) or {}
        if before == now:
            continue
        text = f"split '{split}' is not that of the run: {_difference(before, now)}"
        if "first_batch" not in {**before, **now} and not force:
            raise DataError(f"{text}; give the run the data that it had, or add --force if that is meant.", key="data")
        LOGGER.warning(f"data: {text}.")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if not before or not now:
        return "the run had none of that name" if now else "it is gone"
    for name in before:
        if name not in ("digest", "first_batch", "characters") and before[name] != now.get(name):
            return f"it had {_shown(name, before[name])}, and has {_shown(name, now.get(name))}"
    return "its values have changed" if "digest" in before else "its first batch has changed"


def _shown(name: str, value: Any) -> str:
    return (
        ", ".join(f"{path} {kind}" for path, kind in value.items()) if isinstance(value, Mapping) else f"{value} {name}"
    )


def _variable(changed: Mapping[str, str]) -> str:
    return next(name for name in changed if name in SWITCHES).upper()


def _installed(name: str) -> str:
    try:
        return version(name)
    except (PackageNotFoundError, ValueError):
        return "missing"
