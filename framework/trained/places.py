"""The place of a trained model: a run folder, and one of its checkpoints, as RUN, RUN@500 or RUN@best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

from framework.checkpoints.folder import steps
from framework.config.settings import Train
from framework.errors import ConfigError, StorageError
from framework.records.history import MetricsFile
from framework.records.record import RunRecord, read_record
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.tasks.assembly import task_of

LOSS = "eval/loss"
"""The tag that decides which checkpoint is best, unless `callbacks.checkpoint.best` names another one."""


Member = int | Literal["best"]
"""One member of a run that trained several: its number from 0, or the one whose last evaluation was best."""


class Place(NamedTuple):
    """A run folder and the step of a checkpoint; None stands for the newest that is sound."""

    directory: Path
    step: int | None = None


def place_of(path: str | Path, member: Member = 0) -> Place:
    """Read RUN, RUN@500, RUN@newest or RUN@best; a folder whose name holds an `@` is found as it is.

    Args:
      path: as a user writes it.
      member: whose values decide what is best, of a run that trained several.

    Raises: ConfigError for other words after the `@`; StorageError as `best_step`.
    """
    folder, at, word = str(path).rpartition("@")
    if not at or Path(path).exists():
        return Place(Path(path))
    directory = Path(folder)
    if word.isdecimal():
        return Place(directory, int(word))
    if word == "best":
        record = read_record(directory)
        return Place(directory, best_step(record, member_of(record, member)))
    if word == "newest":
        return Place(directory)
    raise ConfigError(f"expected a step, 'best' or 'newest' after the @, found '{word}', such as {folder}@best.")


def best_step(record: RunRecord, member: int = 0) -> int:
    """Return the saved step whose evaluation was best, by `callbacks.checkpoint.best`, or else by eval/loss.

    Raises: StorageError if no saved step was evaluated; ConfigError if the metric has no direction.
    """
    tag, sign = _decided_by(record)
    saved = steps(record.directory / "checkpoints")
    own = f"{tag}/{member}" if record.members else tag
    found = MetricsFile(record.directory, record.id).series(own)
    rated = {step: sign * value for step, value in found if step in saved and math.isfinite(value)}
    if not rated:
        logged = ", ".join(str(step) for step, _ in found[-4:]) or "none"
        text = f"{record.directory} has no best checkpoint: none of the saved steps {saved} logged '{own}' (last logged"
        raise StorageError(f"{text}: {logged}); name a step, such as {record.directory}@{saved[-1] if saved else 0}.")
    return min(rated, key=lambda step: rated[step])


def member_of(record: RunRecord, member: Member) -> int:
    """Return the number of a member of a run; 0 of a run that is its only member.

    Raises: StorageError if there is no such member, or none was evaluated; ConfigError for other words than "best".
    """
    if member == "best":
        return _best_member(record)
    if not isinstance(member, int):
        raise ConfigError(f"expected the number of a member, from 0, or 'best', found {member!r}.", key="member")
    if not 0 <= member < (count := max(len(record.members or ()), 1)):
        raise StorageError(f"{record.directory} holds {count} members, counted from 0; there is no {member}.")
    return member


def _best_member(record: RunRecord) -> int:
    tag, sign = _decided_by(record)
    values = {row["member"]: row.get("metrics", {}).get(tag) for row in record.members or ()}
    rated = {k: sign * value for k, value in values.items() if isinstance(value, float) and math.isfinite(value)}
    if not rated:
        raise StorageError(f"{record.directory} has no best member: none of them has a last value of '{tag}'.")
    return min(rated, key=lambda k: rated[k])


def _decided_by(record: RunRecord) -> tuple[str, int]:
    """Return the tag that decides, and 1 where low values are good, -1 where high ones are."""
    options = (record.config.get("callbacks") or {}).get("checkpoint") or {}
    tag, mode = options.get("best"), options.get("mode", "auto")
    if tag is None and record.directions and LOSS not in record.directions:
        raise ConfigError(
            f"'{LOSS}' of this task does not say which is best; name a step, or set callbacks.checkpoint.best."
        )
    if tag is None:
        return LOSS, 1
    if mode != "auto":
        return tag, -1 if mode == "max" else 1
    accumulate = (record.config.get("train") or {}).get("accumulate", 1)
    task = task_of(Builder(discover()), record.config, Train(accumulate=accumulate))
    is_higher_better = task.directions.get(tag.split("/")[1])
    if is_higher_better is None:
        raise ConfigError(f"'{tag}' does not say which way is better; name a step instead of 'best'.")
    return tag, -1 if is_higher_better else 1
