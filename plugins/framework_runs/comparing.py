"""The comparison of points: what differs first, in config, code and metrics; and what seeds can tell."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from framework.console.terminal import fitted
from framework_runs import layout
from framework_runs.defaults import UNKNOWN, default_of
from framework_runs.evidence import LEVEL, Difference, difference, sentence
from framework_runs.listing import usual
from framework_runs.naming import NUMBERLESS, Point, points, seed_of
from framework_runs.palette import colours
from framework_runs.reading import Run

CODE = ("versions", "packages", "numerics")
"""Mappings of a record whose values are compared one by one."""


NONE = "–"
"""Sign for a value that a run does not have."""

HIDDEN = {"config": "keys of the config", "code": "facts of code, packages and machine"}


NARROW = 10
"""Least characters of a column that holds cut values."""


class Measured(NamedTuple):
    """The last values of a metric over the runs of a point, by seed."""

    values: Mapping[int, float]

    def text(self) -> str:
        """Write mean and standard deviation; of one run its value."""
        values = list(self.values.values())
        if not values:
            return ""
        mean = layout.number(statistics.fmean(values))
        return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2g}"


class Told(NamedTuple):
    """The difference of a metric between the first point and another one."""

    tag: str
    left: int
    right: int
    found: Difference
    verdict: str


class Comparison(NamedTuple):
    """Points side by side. Rows hold one text for each point.

    Attributes:
      points: in the order of their first runs.
      config, code: rows that differ, by key.
      metrics: by tag, with values of each point; equal ones are left out of texts, and stay here.
      told: for each metric and each point but the first.
      equal: numbers of rows that are hidden since they are equal, by part.
    """

    points: Sequence[Point]
    config: Mapping[str, Sequence[str]]
    code: Mapping[str, Sequence[str]]
    metrics: Mapping[str, Sequence[Measured]]
    told: Sequence[Told]
    equal: Mapping[str, int]


def _unknown(run: Run, key: str) -> Any:
    return UNKNOWN


def compare(runs: Sequence[Run], tags: Sequence[str] = ()) -> Comparison:
    """Compare runs, grouped to points that differ in more than their seed.

    Args:
      tags: metrics to compare; empty takes the usual ones.
    """
    found = points(runs)
    config = _rows(found, _config, default_of)
    # Records of older versions say less, which is no difference of the runs.
    parts = [part for part in CODE if all(run.record.get(part) for run in runs)]
    code = _rows(found, lambda run: _code(run, parts))
    metrics = {tag: [_measured(point, tag) for point in found] for tag in tags or usual(runs)}
    pairs = [(tag, values, right) for tag, values in metrics.items() for right in range(1, len(found))]
    told = [each for tag, values, right in pairs if (each := _told(tag, values, right, found)) is not None]
    # Of a callback that a point lacks, the list of callbacks tells; so does the config of any other plugin.
    config = {key: row for key, row in config.items() if not key.startswith("callbacks.") or NONE not in row}
    code = {key: row for key, row in code.items() if not key.startswith("plugins.") or NONE not in row}
    differing = [{key: row for key, row in rows.items() if len(set(row)) > 1} for rows in (config, code)]
    equal = {"config": len(config) - len(differing[0]), "code": len(code) - len(differing[1])}
    return Comparison(found, differing[0], differing[1], metrics, told, equal)


def text(comparison: Comparison, width: int | None) -> str:
    """Return tables in which each point is a column, or, where they do not fit, a line below each key."""
    letters = [letter(k) for k in range(len(comparison.points))]
    heads = []
    for name, point in zip(letters, comparison.points, strict=True):
        heads += [layout.cut(f"{name}  {point.label}", width), *_places(point, width)]
    parts = ["\n".join(heads)]
    for title, rows in sections(comparison):
        parts.append("\n".join(_table(title, rows, letters, width)))
    if not comparison.config and not comparison.code and len(comparison.points) > 1:
        parts.append("config and code are equal")
    if len(comparison.points) > 1:
        hidden = [f"{count} {HIDDEN[part]}" for part, count in comparison.equal.items()]
        parts.append("\n".join(layout.wrapped([f"equal and hidden: {hidden[0]}", *hidden[1:]], width)))
    told = [each for each in comparison.told if each.found.low is not None]
    verdicts = [line for each in told for line in _verdict(each, letters, width)]
    alone = [name for name, point in zip(letters, comparison.points, strict=True) if len(point.runs) == 1]
    if alone and told:
        verdicts.append(fitted(f"one seed alone tells nothing from chance: {', '.join(alone)}", width))
    return "\n\n".join([*parts, *(["\n".join(verdicts)] if verdicts else [])])


def markdown(comparison: Comparison) -> str:
    """Return the tables in Markdown."""
    letters = [letter(k) for k in range(len(comparison.points))]
    lines = [
        f"* **{name}**: {_escaped(point.label)} ({_seeds(point)})"
        for name, point in zip(letters, comparison.points, strict=True)
    ]
    for title, rows in sections(comparison):
        lines += ["", f"| {title} | {' | '.join(letters)} |", "|---" * (len(letters) + 1) + "|"]
        lines += [f"| `{key}` | {' | '.join(map(_escaped, row))} |" for key, row in rows.items()]
    if comparison.told:
        lines += ["", "| metric | points | difference | 95 % interval | |", "|---|---|---|---|---|"]
        for told in comparison.told:
            cells = (told.tag, f"{letters[told.right]} − {letters[told.left]}", *_numbers(told.found), told.verdict)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as `--json` shows it."""
    own = colours([point.key for point in comparison.points])
    return {
        "points": [
            {
                "label": point.label,
                "colour": own[point.key].value,
                "runs": [str(run.folder) for run in point.runs],
                "seeds": point.seeds,
            }
            for point in comparison.points
        ],
        "config": {key: list(row) for key, row in comparison.config.items()},
        "code": {key: list(row) for key, row in comparison.code.items()},
        "metrics": {
            tag: [{"mean": _mean(each), "values": {str(seed): v for seed, v in each.values.items()}} for each in row]
            for tag, row in comparison.metrics.items()
        },
        "differences": [
            {"metric": told.tag, "left": told.left, "right": told.right, "verdict": told.verdict}
            | {**told.found._asdict(), "level": LEVEL}
            for told in comparison.told
        ],
        "equal": dict(comparison.equal),
    }


def sections(comparison: Comparison) -> list[tuple[str, dict[str, list[str]]]]:
    """Return title and rows of each table that has any; of metrics, those that differ, or all of one point."""
    metrics = {tag: [each.text() for each in row] for tag, row in comparison.metrics.items()}
    metrics = {tag: row for tag, row in metrics.items() if any(row)}
    config, code = ({key: list(row) for key, row in rows.items()} for rows in (comparison.config, comparison.code))
    return [(title, rows) for title, rows in (("config", config), ("code", code), ("metric", metrics)) if rows]


def letter(index: int) -> str:
    """Return A, B, …, Z, A2, B2, …"""
    return chr(ord("A") + index % 26) + (str(index // 26 + 1) if index >= 26 else "")


def _rows(
    found: Sequence[Point], values: Callable[[Run], Mapping[str, Any]], default: Callable[[Run, str], Any] = _unknown
) -> dict[str, list[str]]:
    """Return one text for each point and key: the values of its runs, or their defaults, or `NONE` without any."""
    own = [[(run, values(run)) for run in point.runs] for point in found]
    keys = sorted({key for each in own for _, has in each for key in has})

    def text(run: Run, has: Mapping[str, Any], key: str) -> str:
        return _shown(has[key] if key in has else default(run, key))

    return {key: [", ".join(dict.fromkeys(text(*one, key) for one in each)) for each in own] for key in keys}


def _shown(value: Any) -> str:
    return NONE if value is UNKNOWN else "null" if value is None else layout.number(value)


def _config(run: Run) -> dict[str, Any]:
    """Return what is compared of a config: all that changes numbers, and the callbacks with their options."""
    found = {key: value for key, value in run.config.items() if _is_compared(key)}
    callbacks = run.record["config"].get("callbacks")
    return found | ({"callbacks": " ".join(sorted(callbacks))} if isinstance(callbacks, dict) else {})


def _code(run: Run, parts: Sequence[str]) -> dict[str, Any]:
    found = {f"{part}.{key}": value for part in parts for key, value in (run.record.get(part) or {}).items()}
    found = {key.removeprefix("versions.").removeprefix("packages."): value for key, value in found.items()}
    for key, plugin in (run.record.get("plugins") or {}).items():
        if isinstance(plugin, dict):
            sources = str(plugin.get("sources") or "")[:8]
            found[f"plugins.{key}"] = f"{plugin.get('distribution')} {plugin.get('version')} {sources}".rstrip()
    for start in run.starts[:1]:
        git = start.get("git") or {}
        facts = {"git.commit": str(git.get("commit") or "")[:12], "git.patch": git.get("patch")}
        facts |= {name: start.get(name) for name in ("python", "cpu", "device_kind", "device_software")}
        facts["devices"] = len(start.get("devices") or ())
        found |= {name: value for name, value in facts.items() if value}
    return found


def _measured(point: Point, tag: str) -> Measured:
    return Measured({seed_of(run): run.metrics[tag] for run in point.runs if tag in run.metrics})


def _told(tag: str, values: Sequence[Measured], right: int, found: Sequence[Point]) -> Told | None:
    compared = difference(values[0].values, values[right].values)
    if compared is None:
        return None
    is_high = found[0].runs[0].is_high_better(tag)
    return Told(tag, 0, right, compared, sentence(compared, is_high))


def _mean(measured: Measured) -> float | None:
    return statistics.fmean(measured.values.values()) if measured.values else None


def _places(point: Point, width: int | None) -> list[str]:
    paths = [layout.cut_left(str(run.folder), None if width is None else width - 3) for run in point.runs[:3]]
    more = [f"and {len(point.runs) - 3} more"] if len(point.runs) > 3 else []
    told = [f"{_seeds(point)}", *paths, *more] if len(point.runs) > 1 else paths
    return [f"   {layout.cut(line, None if width is None else width - 3)}" for line in told]


def _seeds(point: Point) -> str:
    return f"{'seeds' if len(point.runs) > 1 else 'seed'} {', '.join(map(str, sorted(point.seeds)))}"


def _table(title: str, rows: Mapping[str, Sequence[str]], letters: Sequence[str], width: int | None) -> list[str]:
    cells = [[title, *letters], *([f"  {key}", *row] for key, row in rows.items())]
    lines = layout.aligned(cells)
    if width is None or max(map(len, lines)) <= width:
        return lines
    room = (width - max(len(line[0]) for line in cells)) // len(letters) - 2
    short = [[line[0], *(layout.cut(cell, room) for cell in line[1:])] for line in cells]
    are_distinct = all(len(set(row)) == len(set(line[1:])) for row, line in zip(rows.values(), short[1:], strict=True))
    if room >= NARROW and are_distinct:
        return layout.aligned(short)
    below = [title]
    for key, row in rows.items():
        below.append(layout.cut(f"  {key}", width))
        for value in dict.fromkeys(row):
            names = ", ".join(name for name, each in zip(letters, row, strict=True) if each == value)
            below.append(layout.cut(f"    {names}  {value}".rstrip(), width))
    return below


def _verdict(told: Told, letters: Sequence[str], width: int | None) -> list[str]:
    pair = f"{letters[told.right]} − {letters[told.left]}"
    mean, interval = _numbers(told.found)
    paired = " of pairs" if told.found.is_paired else ""
    bounds = f" (95 %{paired}: {interval})" if interval else ""
    whole = f"{told.tag}: {pair} is {mean}{bounds}: {told.verdict}"
    if width is None or len(whole) <= width:
        return [whole]
    lines = [
        f"{told.tag}: {pair} is {mean}",
        *([f"  95 %{paired}: {interval}"] if interval else []),
        f"  {told.verdict}",
    ]
    return [layout.cut(line, width) for line in lines]


def _numbers(found: Difference) -> tuple[str, str]:
    interval = "" if found.low is None or found.high is None else f"{found.low:+.3g} to {found.high:+.3g}"
    return f"{found.mean:+.3g}", interval


def _is_compared(key: str) -> bool:
    hidden = [part for part in NUMBERLESS if part != "callbacks"]
    return key != "seed" and not any(key == part or key.startswith(f"{part}.") for part in hidden)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
