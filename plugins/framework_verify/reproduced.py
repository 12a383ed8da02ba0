"""A run that is made again from its record, and the comparison of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from framework.checkpoints.manifest import read_manifest
from framework.config.compose import recorded
from framework.errors import DifferenceError
from framework.experiment import Experiment
from framework.records.folder import check_place
from framework.records.logs import LOGGER, console
from framework.records.record import RunRecord, read_record
from framework.runs.run import run
from framework.trees import data_by_path
from framework_verify import comparing, conditions, verdict
from framework_verify.comparing import Row
from framework_verify.conditions import Told
from framework_verify.spread import spread_of
from framework_verify.trail import unequal

TOLERANCE = 0.01
"""Share by which logged values may differ, where no other runs tell how far they do."""

NOISE = 1e-6
"""Distance of two values that counts as none, beside a tolerance that is a share: of values near 0."""


class Reproduction(NamedTuple):
    """The result of a run that was made again.

    Attributes:
      run: the folder of the record.
      again: the folder of the second run.
      verdict: "same" bits; "inside" the recorded spread or the tolerance, where equal bits cannot be expected; or
        "differs".
      rows: differences in bits, those of the log first.
      figures: a sentence of what was compared, and how far it is apart.
      told: facts that are not as the record has them.
    """

    run: Path
    again: Path
    verdict: Literal["same", "inside", "differs"]
    rows: tuple[Row, ...]
    figures: str
    told: tuple[Told, ...]

    def check(self) -> None:
        """Return unless the runs differ.

        Raises: DifferenceError naming the first metric with its step, or else the first leaf.
        """
        if self.verdict == "differs":
            first = self.rows[0]
            text = f"{self.again} is not {self.run}: {first.part}, {first.at}: {first.found}"
            raise DifferenceError(f"{text}; {self.figures}.")


class Farthest(NamedTuple):
    """The two values of the logs that are farthest apart, as a share of the larger one."""

    share: float
    tag: str
    step: int
    values: int  # that were compared

    def __str__(self) -> str:
        where = f"{self.tag}, step {self.step}"
        return f"{self.values} values of metrics.jsonl are up to {100 * self.share:.3g} % apart ({where})"


def reproduce(
    directory: Path, words: Sequence[str] = (), to: str | None = None, tolerance: float | None = None
) -> Reproduction:
    """Make a run again from its record, in a folder of its own, and compare both. The first one is only read.

    Args:
      directory: the folder of a finished run.
      words: overrides that change no value, such as secrets, which no record holds.
      to: folder of the second run; None takes a fresh one, as `framework train RUN` does.
      tolerance: share by which logged values may differ, where equal bits cannot be expected. None holds the last
        metrics against those of runs with other seeds beside the first one; without three seeds it is `TOLERANCE`.

    Raises: FrameworkError naming the cause, if the run cannot be made again.
    """
    record = conditions.finished(directory)
    config = recorded(directory, words)
    place = {"run.dir": to} if to else {}
    config = config.with_values({"run.resume": None, "run.name": record.name or None, **place})
    check_place(config.settings.run)
    told = conditions.code_and_machine(record, config.secrets)
    with console():
        _tell(told)
    conditions.check_installed(record)
    built: list[Experiment] = []

    def checked(experiment: Experiment) -> Experiment:
        told.extend(found := conditions.devices(record))
        _tell(found)
        conditions.check(record, experiment, config.secrets)
        built.append(experiment)
        return experiment

    again = run(config, checked).directory
    return compared(record, read_record(again), built[0], told, tolerance)


def _tell(told: Sequence[Told]) -> None:
    for each in told:
        LOGGER.info(f"not as in the record: {each.text}")


def compared(
    record: RunRecord, again: RunRecord, experiment: Experiment, told: Sequence[Told], tolerance: float | None
) -> Reproduction:
    """Compare two finished runs of one experiment."""
    left, right = record.directory, again.directory
    rows = [*comparing.outcomes(left, right), *_leaves(record, again, experiment)]
    if not rows:
        return Reproduction(left, right, "same", (), _figures(record), tuple(told))
    found, reasons = farthest(left, right), [each.text for each in told if each.is_of_bits]
    figures = "the logs have other steps or tags" if found is None else str(found)
    if not reasons:
        return Reproduction(left, right, "differs", tuple(rows), figures, tuple(told))
    ends = all(getattr(record, name) == getattr(again, name) for name in ("status", "exit_code", "step"))
    if tolerance is None and (recorded_spread := spread_of(record)) is not None:
        outside = recorded_spread.outside(again.metrics or {})
        is_inside = ends and not outside
        beside = f"{recorded_spread.seeds} seeds in {left.parent}"
        figures += (
            f"; {outside}, the range of {beside}" if outside else f"; the last metrics are in the range of {beside}"
        )
    else:
        share = TOLERANCE if tolerance is None else tolerance
        is_inside = ends and found is not None and found.share <= share
        figures += f", {'inside' if is_inside else 'beyond'} the tolerance of {100 * share:g} %"
    return Reproduction(left, right, "inside" if is_inside else "differs", tuple(rows), figures, tuple(told))


def farthest(left: Path, right: Path) -> Farthest | None:
    """Find the values of two logs that are farthest apart; None if steps or tags are not the same."""
    ours, theirs = comparing.lines(left), comparing.lines(right)
    if [list(line) for line in ours] != [list(line) for line in theirs]:
        return None
    shares = [
        (_share(value, other[tag]), tag, int(line["step"]))
        for line, other in zip(ours, theirs, strict=True)
        for tag, value in line.items()
    ]
    return Farthest(*max(shares, key=lambda each: each[0], default=(0.0, "none", 0)), len(shares))


def _share(one: Any, other: Any) -> float:
    """Return the distance of two numbers as a share of the larger one; texts such as "NaN" are equal or far apart."""
    if one == other:
        return 0.0
    if isinstance(one, str) or isinstance(other, str):
        return math.inf
    return 0.0 if abs(one - other) <= NOISE else abs(one - other) / max(abs(one), abs(other))


def _leaves(record: RunRecord, again: RunRecord, experiment: Experiment) -> list[Row]:
    """Compare the final checkpoints by the digests of their leaves; only where these differ, by their values."""
    ours, theirs = (each.directory / "checkpoints" / str(record.step) for each in (record, again))
    if not ours.exists():
        return []
    if not theirs.exists():
        return [Row("checkpoint", f"step {record.step}", "the second run has none")]
    before, now = read_manifest(ours)["leaves"], read_manifest(theirs)["leaves"]
    if not (names := unequal(before, now)):
        return []
    left, right = (data_by_path(conditions.final_state(each, experiment)) for each in (record, again))
    plugins = verdict.plugins_of({"plugins": record.plugins})
    owner = verdict.owner(names[0], plugins, record.config.get("ema") is not None)
    text = f"{len(names)} of {len(before)} leaves, first {names[0]} ({_apart(left[names[0]], right[names[0]])})"
    return [Row("checkpoint", f"step {record.step}", f"{text}, kept by {owner}")]


def _apart(left: Any, right: Any) -> str:
    one, other = (np.asarray(jax.device_get(leaf)) for leaf in (left, right))
    far = np.abs(one.astype(np.float64) - other.astype(np.float64)).max() if one.size else 0
    return f"{int((one != other).sum())} of {one.size} elements, by up to {far:.3g}"


def _figures(record: RunRecord) -> str:
    path = record.directory / "checkpoints" / str(record.step)
    leaves = f"{len(read_manifest(path)['leaves'])} leaves of step {record.step}" if path.exists() else "no checkpoint"
    return f"{len(comparing.lines(record.directory))} lines of metrics.jsonl, {leaves}, status and last values"
