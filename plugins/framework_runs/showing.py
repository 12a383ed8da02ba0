"""One run on a screen: status, what was chosen, metrics with their curves and best values, and what to do next."""

from __future__ import annotations

from typing import Any

from framework.console.output import shell_word
from framework.console.terminal import command_lines, fitted
from framework.registry.entry_points import discover
from framework.tags import NO_METRICS
from framework_runs import layout
from framework_runs.listing import as_json
from framework_runs.naming import label, status_of
from framework_runs.reading import Run

CURVE = 24
"""Largest number of characters of a sparkline."""

SHORTEST = 12
"""Characters of the words that were typed, below which they are left out."""

ORDER = ("train/loss", "train/", "eval/", "test/")
"""Order of tags; others follow."""


def text(run: Run, width: int | None) -> str:
    """Return the page of a run.

    Args:
      width: characters of a line; None cuts nothing.
    """
    parts = [_head(run, width), _chosen(run, width), _metrics(run, width), _members(run, width), _starts(run, width)]
    warnings = [fitted(f"warning: {each}", width) for each in run.record.get("warnings") or ()]
    return "\n\n".join("\n".join(part) for part in [*parts, warnings, _next(run, width)] if part)


def as_page(run: Run) -> dict[str, Any]:
    """Return the page of a run as `--json` shows it."""
    best = {tag: found for tag in run.series if (found := run.best(tag)) is not None}
    return {
        **as_json(run),
        "reason": run.record.get("reason"),
        "best": {tag: {"step": step, "value": value} for tag, (step, value) in best.items()},
        "members": run.members,
        "starts": run.starts,
        "warnings": run.record.get("warnings") or [],
        "config": dict(run.record["config"]),
        "next": [{"command": command, "about": about} for command, about in advice(run)],
    }


def advice(run: Run) -> list[tuple[str, str]]:
    """Return commands that fit the state of a run, each with what it does."""
    folder = shell_word(run.folder)
    has_state = any((run.folder / "checkpoints").glob("[0-9]*"))
    verbs = {plugin.name for plugin in discover().named("commands")}
    found: list[tuple[str, str]] = []
    if run.status in ("running", "ending"):
        found += [(f"framework tell {folder} checkpoint", "save at once"), (f"framework tell {folder} stop", "end it")]
    elif run.status == "failed" and (run.folder / "nan").is_dir():
        found.append((f"framework replay {folder}", "find what was not finite"))
    elif run.status == "failed":
        found.append((f"tail {folder}/run.log", "see what happened"))
    elif run.status != "done" and has_state:
        found.append((f"framework resume {folder}", "go on"))
    if run.status in ("done", "stopped") and has_state:
        if "evaluate" in verbs:
            found.append((f"framework evaluate {folder}", "measure the model"))
        if run.status == "done" and run.total_steps:
            found.append((f"framework resume {folder} train.steps={2 * run.total_steps}", "train on"))
    found.append((f"framework report {folder}", "write a page with all curves"))
    if run.status == "done":
        found.append((f"framework compare {folder} OTHER", "find what differs from another run"))
    return found


def _head(run: Run, width: int | None) -> list[str]:
    name, took = label(run), layout.duration(run.seconds)
    status = status_of(run) + (f" in {took}" if took else "")
    facts = [f"step {run.step}" + (f"/{run.total_steps}" if run.total_steps else "")]
    facts += [f"started {layout.moment(run.started)}"] if run.started else []
    facts += [f"on {run.starts[-1]['host']}"] if run.starts and run.starts[-1].get("host") else []
    reason = [fitted(str(run.record["reason"]), width)] if run.record.get("reason") else []
    lines = [layout.cut(name, width), layout.coloured(layout.cut(status, width), run.status), *reason]
    return [*lines, *layout.wrapped(facts, width), layout.cut_left(str(run.folder), width)]


def _chosen(run: Run, width: int | None) -> list[str]:
    overrides = run.record.get("overrides")
    if not isinstance(overrides, dict) or not overrides:
        return []
    rows = [[f"  {key}", str(value)] for key, value in overrides.items()]
    return ["chosen", *(layout.cut(line, width) for line in layout.aligned(rows))]


def _metrics(run: Run, width: int | None) -> list[str]:
    tags = [tag for tag in run.metrics if not tag.startswith(NO_METRICS) and not _is_member(tag, run.metrics)]
    tags.sort(key=lambda tag: next((k for k, start in enumerate(ORDER) if tag.startswith(start)), len(ORDER)))
    if not tags:
        return []
    bests = {tag: run.best(tag) for tag in tags}
    rows = [["metric", "last", "best", "at"]]
    for tag in tags:
        best = bests[tag]
        has_best = best is not None and len(run.series.get(tag, ())) > 1
        found = [layout.number(best[1]), str(best[0])] if best is not None and has_best else ["", ""]
        rows.append([f"  {tag}", layout.number(run.metrics[tag]), *found])
    fitting = layout.columns_that_fit(rows, width, 2)
    lines = layout.aligned([row[:fitting] for row in rows], (1, 2, 3))
    used = max(map(len, lines)) + 2
    free = CURVE if width is None else min(CURVE, width - used)
    if free >= 6:
        curves = ["", *(layout.sparkline(run.series.get(tag, []), free) for tag in tags)]
        lines = [f"{line:<{used}}{curve}".rstrip() for line, curve in zip(lines, curves, strict=True)]
    return [layout.cut(line, width) for line in lines]


def _members(run: Run, width: int | None) -> list[str]:
    members = run.members
    if not members:
        return []
    values = list(dict.fromkeys(key for row in members for key in row.get("values") or ()))
    tags = list(dict.fromkeys(tag for row in members for tag in row.get("metrics") or ()))
    tags = [tag for tag in tags if tag.startswith(("eval/", "test/"))] or tags
    rows = [["member", *values, *tags]]
    for row in members:
        own = [layout.number((row.get("values") or {}).get(key)) for key in values]
        own += [layout.number((row.get("metrics") or {}).get(tag)) for tag in tags]
        rows.append([f"  {row.get('member', '')}", *own])
    fitting = layout.columns_that_fit(rows, width, 2)
    return [layout.cut(line, width) for line in layout.aligned([row[:fitting] for row in rows], range(1, fitting))]


def _starts(run: Run, width: int | None) -> list[str]:
    if not run.starts:
        return []
    rows = []
    for start in run.starts:
        git = start.get("git") or {}
        commit = str(git.get("commit") or "")[:8] + ("+" if git.get("dirty") else "")
        memory = f"{start['peak_memory_mib']} MiB" if start.get("peak_memory_mib") else ""
        took = layout.duration(start.get("seconds"))
        when = layout.moment(str(start.get("started", "")))
        step, words = str(start.get("from_step", 0)), str(start.get("typed", ""))
        rows.append([f"  {when}", step, took, memory, commit, words])
    heads = ["started", "from step", "took", "memory", "commit", "typed"]
    table = [heads, *rows]
    fitting = layout.columns_that_fit([[*row[:-1], row[-1][:SHORTEST]] for row in table], width, 2)
    lines = layout.aligned([row[:fitting] for row in table], (1, 2, 3))
    return [layout.cut(line, width) for line in lines]


def _next(run: Run, width: int | None) -> list[str]:
    """Return the advice. Commands are broken where a shell goes on with the next line, since they are to be copied."""
    found = advice(run)
    size = max(len(command) for command, _ in found)
    rows = [f"  {command:<{size}}  # {about}" for command, about in found]
    if width is not None and max(map(len, rows)) > width:
        rows = []
        for command, about in found:
            rows += [f"  # {about}", *(f"  {line}" for line in command_lines(command, width - 2))]
    return ["next", *rows]


def _is_member(tag: str, tags: Any) -> bool:
    head, _, tail = tag.rpartition("/")
    return tail.isdecimal() and head in tags
