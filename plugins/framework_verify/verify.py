"""Compare a run that is killed and resumed with one left alone: `framework verify-resume …`."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.commands.arguments import config_of
from framework.config.resolve import tagged
from framework.console.terminal import telling
from framework.errors import ConfigError
from framework.runs import signals
from framework_verify import comparing, trail, verdict
from framework_verify.attempts import Failure, Runs, run
from framework_verify.comparing import Row
from framework_verify.findings import Report, figures_of, listed, rows_of
from framework_verify.trail import Attempt, Parting
from framework_verify.verdict import Verdict


def verify_resume(
    words: Sequence[str], config_dir: str | None = None, *, steps: int, kills: int, seed: int = 0
) -> Report:
    """Run an experiment, run it again with kills at random steps, resume it after each, and compare bit by bit.

    Every run is a process of its own, as after a real kill: what a plugin takes from a global random generator or from
    the order of a set differs between processes.

    Args:
      words: overrides, such as `["+experiment=mnist"]`; or a run folder and overrides.
      config_dir: a folder of configs of one's own.
      steps: length of the runs, at most; `train.steps` if that is less.
      kills: number of kills.
      seed: of the steps at which to kill.

    Raises: ConfigError if this cannot be tried of the experiment; FrameworkError as the run, where it fails by itself.
    """
    work = Path(tempfile.mkdtemp(prefix="framework-verify-"))
    try:
        with signals.stop_requests() as asked, telling() as say:
            settings, every = _settings(words, config_dir, steps)
            report = _verified(Runs(work, words, config_dir, settings, every, asked, say), kills, seed)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    if not report.rows:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _settings(words: Sequence[str], config_dir: str | None, steps: int) -> tuple[dict[str, Any], int]:
    """Shorten the run, with enough checkpoints, evaluations and records to lose some of each.

    Returns: settings by config key, and the number of updates between two checkpoints.

    Raises: ConfigError if the run is too short, or of several processes.
    """
    config = config_of(list(words), config_dir)
    if config.settings.distributed.coordinator is not None:
        raise ConfigError("one process is tried; leave it out, with distributed.coordinator=null.", key="distributed")
    train = config.settings.train
    steps = min(train.steps or steps, steps)
    if steps < 4:
        raise ConfigError(f"--steps: expected at least 4, found {steps}; there must be something to lose.")
    every = min(train.checkpoint_every or steps, max(1, steps // 8))
    # Periods that are not multiples of each other, so that kills come between the three as well.
    changed = {
        "train.steps": steps,
        "train.checkpoint_every": every,
        "train.log_every": min(train.log_every or steps, max(1, every - 1)),
        "train.eval_every": 0 if train.eval_every == 0 else min(train.eval_every or steps, 2 * every - 1),
        "run.resume": "auto",
    }
    # A recorded config holds a number here, which does not follow train.checkpoint_every.
    for tag, options in tagged(config.values.get("callbacks"), "callbacks").items():
        if options["name"] == "checkpoint":
            changed[f"callbacks.{tag}.every"] = every
    return changed, every


def _verified(runs: Runs, kills: int, seed: int) -> Report:
    straight = trail.whole(run(runs, "straight", []))
    steps = _fatal_steps(max(straight.states, default=0), runs, kills, seed)
    try:
        killed = run(runs, "killed", steps)
    except Failure as failure:
        because = f"killed at step {steps[0]}, it does not come to its end: {failure}"
        rows = (Row("killed run", "resume", str(failure)),)
        return Report(rows, Verdict("the resume itself", "certain", because, ()), {}, (), runs.work)
    if len(killed) > 1 and not any(attempt.start for attempt in killed):
        raise ConfigError(
            "callbacks: no checkpoint was there to go on from, so that each run began anew; save every "
            f"{runs.every} steps, as train.checkpoint_every says here."
        )
    rows = comparing.differences(runs.work / "straight", runs.work / "killed")
    found = trail.parting(straight, killed)
    if not rows and found is None:
        return Report((), None, figures_of(runs.work, straight, killed), (), None)
    return _explained(runs, straight, steps, found, rows)


def _explained(runs: Runs, straight: Attempt, steps: list[int], found: Parting | None, rows: list[Row]) -> Report:
    """Find what parts the runs; first whether a run left alone repeats itself at all."""
    again = trail.whole(run(runs, "again", []))
    record = json.loads((runs.work / "straight" / "run.json").read_text())
    plugins, is_averaged = verdict.plugins_of(record), record["config"].get("ema") is not None
    other = trail.parting(straight, [again])
    unsteady = {row.part for row in comparing.differences(runs.work / "straight", runs.work / "again")}
    notes = tuple(
        f"not compared: {row.part}, in which two runs left alone differ as well" for row in rows if row.part in unsteady
    )
    rows = [row for row in rows if row.part not in unsteady or other is not None]
    figures = {"killed at": listed(steps)}
    if other is not None:
        exact = _traced(runs, other, []) if other.is_within else None
        judged = verdict.judge(exact or other, plugins)
        because = f"two runs that were left alone differ, so that it is not the resume: {judged.because}"
        table = [*rows_of(runs.work, other, exact, plugins, is_averaged), *rows]
        return Report(tuple(table), judged._replace(because=because), figures, (), runs.work)
    if found is not None:
        exact = _traced(runs, found, steps) if found.is_within else None
        table = (*rows_of(runs.work, found, exact, plugins, is_averaged), *rows)
        return Report(table, verdict.judge(exact or found, plugins), figures, notes, runs.work)
    if not rows:
        return Report((), None, figures, notes, None)
    judge = verdict.of_folder(rows[0].part, plugins)
    own = [row.part for row in rows if row.part not in ("metrics.jsonl", "checkpoints", "run.json")]
    return Report(tuple(rows), verdict.of_files(own, plugins) if own else judge, figures, notes, runs.work)


def _traced(runs: Runs, found: Parting, steps: list[int]) -> Parting | None:
    """Make both runs once more and look at each step; return None if they do not part again.

    States are kept whole, from the last one known to be the same to the first known to differ.
    """
    saved = (found.before, found.state) if found.state is not None else (0, 0)
    runs = runs._replace(settings={**runs.settings, "train.log_every": 1}, every=1)
    straight = trail.whole(run(runs, "traced-straight", [], saved))
    return trail.parting(straight, run(runs, "traced-killed", steps, saved))


def _fatal_steps(last: int, runs: Runs, kills: int, seed: int) -> list[int]:
    """Draw steps at which to kill, after the first checkpoint: before it, a run would just begin anew.

    Raises: ConfigError if the run keeps no checkpoints, or is too short for so many kills.
    """
    if not comparing.kept(runs.work / "straight"):
        raise ConfigError("the run keeps no checkpoints to go on from; add callbacks+=checkpoint.", key="callbacks")
    choices = range(runs.every + 1, last)
    if not 1 <= kills <= len(choices):
        raise ConfigError(
            f"--kills: expected 1 to {len(choices)}, the steps from the first checkpoint, of step {runs.every}, to the "
            f"end, at step {last}; found {kills}. Take more --steps."
        )
    return sorted(random.Random(seed).sample(choices, kills))
