"""The report of a replay in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from framework.console.output import shell_word
from framework.console.tables import text_table
from framework_replay.case import NO_FAULT, Case
from framework_replay.diagnosis import Diagnosis, layers
from framework_replay.watching import Figures

LISTED = 10
"""Examples that a line lists."""


class Report(NamedTuple):
    """The finding of a replay, with the examples that failed and advice.

    Attributes:
      guilty: groups of places in the batch, as `examples.guilty` finds them.
    """

    case: Case
    found: Diagnosis
    guilty: list[list[int]] | None
    advice: list[str]


def text(report: Report) -> str:
    """Return the report as lines."""
    case, found = report.case, report.found
    if case.facts.what == NO_FAULT and found.first == "nothing":
        about = f"the run met no fault; this is the step after its newest checkpoint, {case.facts.step - 1}"
        return f"step {case.facts.step}: all is finite; {about}\n\n{table(found)}"
    told = [f"step {case.facts.step}: {case.facts.what}", _verdict(found)]
    if (operation := found.operation) is not None:
        told += [f"operation: {operation.primitive} makes the first {operation.kind}", f"line: {operation.line}"]
        told += [f"    {operation.code}"] if operation.code else []
    told += [f"{fate.what} {'in' if fate.what != 'reached' else 'the'} {fate.path}" for fate in found.fates]
    told += [_examples(case, report.guilty), *(f"advice: {each}" for each in [*report.advice, *_leave_out(report)])]
    told += ["", table(found)]
    return "\n".join(told)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values."""
    case, found = report.case, report.found
    operation = found.operation and found.operation._asdict()
    groups = report.guilty and [[case.name_of(place) for place in group] for group in report.guilty]
    return {
        "step": case.facts.step,
        "what": case.facts.what,
        "first": found.first,
        "layer": found.path,
        "direction": found.direction,
        "device": found.device,
        "operation": operation and {name: value for name, value in operation.items() if name != "error"},
        "fates": found.fates,
        "examples": groups,
        "advice": report.advice,
        "values": found.watched.seen,
    }


def _verdict(found: Diagnosis) -> str:
    if found.first == "nothing":
        return "all is finite when the step is made again: the device does not repeat its sums bit by bit"
    where = "" if found.device is None else f", on device {found.device}"
    layer = found.path if found.position is None else f"layer {found.position}, {found.path}"
    kind = "" if found.value is None else f" ({found.value.nans} nan, {found.value.infs} inf)"
    return f"first not finite: the {found.first}, in {layer}, {found.direction}{where}{kind}"


def _examples(case: Case, guilty: list[list[int]] | None) -> str:
    if guilty is None:
        return "examples: the compiled step is finite with this batch"
    if guilty == [list(range(case.size))] and case.size > 1:
        return f"examples: no part of the {case.size} is to blame"
    listed = [" with ".join(case.name_of(place) for place in group) for group in guilty[:LISTED]]
    more = f" and {len(guilty) - LISTED} more" if len(guilty) > LISTED else ""
    return f"examples: {', '.join(listed)}{more} of {case.size}"


def _leave_out(report: Report) -> list[str]:
    rows, guilty = report.case.rows, report.guilty or []
    if rows is None or not guilty or len(guilty) > LISTED or any(len(group) > 1 for group in guilty):
        return []
    excluded = ",".join(str(int(rows[place])) for (place,) in guilty)
    run = report.case.folder.parents[1] if report.case.folder.parent.name == "nan" else "RUN"
    return [f"without these examples: `framework resume {shell_word(run)} data.exclude=[{excluded}]`"]


def table(found: Diagnosis) -> str:
    """Return one row for each layer: figures of its outputs and of their gradients."""
    heads: tuple[str, ...] = (
        "layer",
        "shape",
        "min",
        "max",
        "mean",
        "zeros",
        "bad",
        "grad min",
        "grad max",
        "grad mean",
        "bad",
    )
    rows: list[tuple[str, ...]] = [heads]
    for path in layers(found.watched.seen):
        forward, backward = (_of(found.watched.seen, path, way) for way in ("forward", "backward"))
        if not path.startswith("metrics."):
            shape = " × ".join(map(str, forward[0].shape)) if forward else ""
            rows.append((path, shape, *_cells(forward), *_cells(backward, with_zeros=False)))
    return text_table(rows, right=range(2, len(heads)))


def _of(seen: Sequence[Figures], path: str, direction: str) -> list[Figures]:
    return [each for each in seen if (each.path, each.part, each.direction) == (path, "outputs", direction)]


def _cells(each: list[Figures], with_zeros: bool = True) -> tuple[str, ...]:
    """Return figures of one value, or of the parts of several devices together."""
    if not each:
        return ("",) * (5 if with_zeros else 4)
    mean, zeros = (sum(getattr(one, name) for one in each) / len(each) for name in ("mean", "zeros"))
    bad = sum(one.nans + one.infs for one in each)
    figures = [min(one.least for one in each), max(one.most for one in each), mean]
    share = (f"{zeros:.0%}",) if with_zeros else ()
    return (*(f"{figure:.3g}" for figure in figures), *share, f"{bad}" if bad else "")
