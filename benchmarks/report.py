"""From trials to medians and ratios, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders import BASELINES
from benchmarks.trial import Trial
from benchmarks.workloads import WORKLOADS


def summarise(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One row for each workload and contender.

    A ratio is of speeds: the baseline's time over the contender's in the same round, then the median over rounds. Only
    rounds in which both were left alone count; where there is none, all do, and `clean` says so by being 0.
    """
    pairs = dict.fromkeys((trial.workload, trial.contender) for trial in trials)
    return [_row(workload, contender, trials) for workload, contender in pairs]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown; a ~ marks numbers from disturbed trials alone."""
    baselines = [name for name in BASELINES if any(row["contender"] == name for row in rows)]
    head = ["workload", "contender", "ms/step", "examples/s", *(f"vs {name}" for name in baselines)]
    head += ["first step s", "peak MB", "clean"]
    cells = [head, ["---"] * len(head), *(_cells(row, baselines) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    )


def _row(workload: str, contender: str, trials: Sequence[Trial]) -> dict[str, Any]:
    mine = [t for t in trials if (t.workload, t.contender) == (workload, contender)]
    steady = _kept([t for t in mine if t.measure == "steady"])
    start = _kept([t for t in mine if t.measure == "start"])
    row: dict[str, Any] = {
        "workload": workload,
        "contender": contender,
        "about": WORKLOADS[workload].about,
        "ms_per_step": _median([t.value for t in steady]),
        "first_step_seconds": _median([t.value for t in start]),
        "memory_mb": _median([t.memory for t in steady]),
        "rounds": sum(t.measure == "steady" for t in mine),
        "clean": sum(t.measure == "steady" and t.clean for t in mine),
        "ratios": {},
    }
    if row["ms_per_step"]:
        row["examples_per_second"] = WORKLOADS[workload].batch_size / row["ms_per_step"] * 1000
    for baseline in BASELINES:
        for measure in ("steady", "start"):
            ratio = _ratio(workload, baseline, contender, measure, trials)
            if ratio is not None and baseline != contender:
                row["ratios"].setdefault(baseline, {})[measure] = ratio
    return row


def _ratio(
    workload: str, baseline: str, contender: str, measure: str, trials: Sequence[Trial]
) -> dict[str, float] | None:
    by_round = {(t.contender, t.round): t for t in trials if (t.workload, t.measure) == (workload, measure)}
    rounds = sorted({t.round for t in trials})
    pairs = [(by_round.get((baseline, r)), by_round.get((contender, r))) for r in rounds]
    complete = [(left, right) for left, right in pairs if left is not None and right is not None]
    clean = [(left, right) for left, right in complete if left.clean and right.clean]
    ratios = [left.value / right.value for left, right in clean or complete]
    if not ratios:
        return None
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "clean": len(clean)}


def _kept(trials: Sequence[Trial]) -> Sequence[Trial]:
    return [trial for trial in trials if trial.clean] or trials


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _cells(row: dict[str, Any], baselines: Sequence[str]) -> list[str]:
    mark = "" if row["clean"] else "~"
    return [
        row["workload"],
        row["contender"],
        mark + _shown(row["ms_per_step"], ".3g"),
        mark + _shown(row.get("examples_per_second"), ",.0f"),
        *(_speed(row["ratios"].get(baseline, {}).get("steady")) for baseline in baselines),
        _shown(row["first_step_seconds"], ".2f"),
        _shown(row["memory_mb"], ".0f"),
        f"{row['clean']}/{row['rounds']}",
    ]


def _speed(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{'' if ratio['clean'] else '~'}{ratio['median']:.3f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
