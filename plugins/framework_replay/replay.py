"""A replay from a capsule to a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framework.startup import seldom_collected
from framework_replay.advice import advise
from framework_replay.case import opened
from framework_replay.diagnosis import diagnose
from framework_replay.examples import guilty
from framework_replay.report import Report


@seldom_collected()
def replayed(path: Path, words: Sequence[str] = ()) -> Report:
    """Replay the step of a capsule, or of the first capsule of a run.

    Args:
      path: of the capsule or the run.
      words: overrides of the recorded config.

    Raises: FrameworkError.
    """
    case = opened(path, words)
    blamed = guilty(case)
    found = diagnose(case)
    return Report(case, found, blamed, advise(case, found))
