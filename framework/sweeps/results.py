"""Results of a sweep: one row for each setting, its seeds as mean and spread, and the best point."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framework.console.tables import text_table
from framework.contracts.search import Goal
from framework.errors import ConfigError
from framework.sweeps.labels import label, short
from framework.sweeps.ledger import Ledger, Point

QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Of Student's t at 97.5 %, for 1 to 15 degrees of freedom; beyond, 1.96 + 2.4 / degrees is right to 0.3 %."""


class Spread(NamedTuple):
    """A metric over the seeds of one setting.

    Attributes:
      mean: of the values.
      sd: standard deviation of a sample; NaN for a single value.
      n: number of values.
      half: half the width of the 95 % interval of the mean, by Student's t; NaN for a single value.
    """

    mean: float
    sd: float
    n: int
    half: float


class Row(NamedTuple):
    """One setting.

    Attributes:
      setting: parameters without the seed.
      numbers: of its points.
      n: number of points that are done.
      metrics: a spread for each tag.
      seconds: of all its points.
      states: how many points are in each state.
    """

    setting: Mapping[str, Any]
    numbers: tuple[int, ...]
    n: int
    metrics: Mapping[str, Spread]
    seconds: float
    states: Mapping[str, int]


INTERVAL = "95 %"
"""Head of the column with the interval in which the mean over all seeds lies with that probability, if normal."""


class Results(NamedTuple):
    """The results of a sweep.

    Attributes:
      directory: the folder of the sweep.
      seed: the key over which settings are averaged, or "".
      tags: the metrics, those to improve first.
      goals: the metrics to improve; the first decides the best setting.
      rows: the settings, the best first.
      front: the settings on the Pareto front of the goals, as `front_of` tells; of one goal, the best.
      best: number of the best point, or None.
      failed: points that failed, each with its reason.
      seconds: spent on all points.
      left_out: points of former values that would come out otherwise at present, each with what differs.
    """

    directory: Path
    seed: str
    tags: tuple[str, ...]
    goals: tuple[Goal, ...]
    rows: tuple[Row, ...]
    front: tuple[Row, ...]
    best: Point | None
    failed: tuple[Point, ...]
    seconds: float
    left_out: tuple[tuple[Point, tuple[str, ...]], ...] = ()

    @property
    def goal(self) -> Goal:
        """The metric that decides the best setting."""
        return self.goals[0]

    @property
    def best_run(self) -> Path | None:
        """The run folder of the best point, such as `framework.load` and `framework.evaluate` take."""
        return None if self.best is None else self.directory / self.best.directory

    def __repr__(self) -> str:
        return self.text()

    def text(self, format: str = "text") -> str:
        """Write the table as text, CSV, Markdown or LaTeX."""
        return {"text": _text, "csv": _csv, "md": _markdown, "latex": _latex}[format](self)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat mapping for each setting: parameters, n, and for each tag its mean, sd and half width.

        With several metrics to improve, `front` tells whether the setting is on their Pareto front.
        """
        found = []
        for row in self.rows:
            record: dict[str, Any] = {**row.setting, "n": row.n, "points": list(row.numbers)}
            for tag, spread in row.metrics.items():
                record |= {tag: spread.mean, f"{tag}/sd": spread.sd, f"{tag}/interval": spread.half}
            if len(self.goals) > 1:
                record["front"] = row in self.front
            found.append({**record, "seconds": round(row.seconds, 3)})
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the table and all beside it as plain values, in the shape that docs/json.md gives."""
        best = self.best
        return {
            "directory": str(self.directory),
            "seed": self.seed or None,
            "goal": self.goal._asdict(),
            "goals": [goal._asdict() for goal in self.goals],
            "rows": self.records(),
            "best": best
            and {
                "point": best.number,
                "parameters": best.parameters,
                "metrics": best.scalars,
                "directory": str(self.directory / best.directory),
            },
            "failed": [
                {"point": point.number, "parameters": point.parameters, "reason": point.reason} for point in self.failed
            ],
            "left_out": [
                {"point": point.number, "parameters": point.parameters, "differs": list(names)}
                for point, names in self.left_out
            ],
            "seconds": round(self.seconds, 3),
        }

    def frame(self) -> Any:
        """Return the table as a pandas DataFrame.

        Raises: ConfigError if pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError("pandas is not installed; `records()` gives plain mappings.") from error
        return pandas.DataFrame(self.records())


def results_of(directory: Path, ledger: Ledger, goals: Sequence[Goal]) -> Results:
    """Read the results of a sweep from its ledger, without points that are unlike those that were asked for last."""
    every, unlike = ledger.points(), ledger.facts().get("unlike", {})
    left_out = tuple((point, tuple(unlike[str(point.number)])) for point in every if str(point.number) in unlike)
    points = [point for point in every if str(point.number) not in unlike]
    done, goal = [point for point in points if point.state in ("done", "pruned")], goals[0]
    seed = seed_key([point.parameters for point in points])
    found = dict.fromkeys(tag for point in done for tag in point.scalars if tag.startswith(("eval/", "test/")))
    found = found or dict.fromkeys(tag for point in done for tag in point.scalars if tag == "train/loss")
    tags = tuple(dict.fromkeys([*(each.tag for each in goals if each.tag in found), *found]))
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(json.dumps(_without(point.parameters, seed), sort_keys=True), []).append(point)
    rows = [_row(group, seed, tags) for group in groups.values()]
    sign = -1 if goal.is_high_good else 1

    def rank(row: Row) -> float:
        return sign * row.metrics[goal.tag].mean if goal.tag in row.metrics else math.inf

    finished = [point for point in points if point.state == "done" and goal.tag in point.scalars]
    best = min(finished, key=lambda point: sign * point.scalars[goal.tag], default=None)
    failed = tuple(point for point in points if point.state == "failed")
    seconds = sum(point.seconds for point in every)
    rows = tuple(sorted(rows, key=rank))
    return Results(directory, seed, tags, tuple(goals), rows, front_of(rows, goals), best, failed, seconds, left_out)


def front_of(rows: Sequence[Row], goals: Sequence[Goal]) -> tuple[Row, ...]:
    """Return the Pareto front of settings: those whose means no other setting's equal or excel, and excel in one.

    Settings that lack one of the metrics are not on it.
    """

    def costs(row: Row) -> list[float]:
        return [(-1 if goal.is_high_good else 1) * row.metrics[goal.tag].mean for goal in goals]

    known = [(row, costs(row)) for row in rows if all(goal.tag in row.metrics for goal in goals)]

    def is_excelled(cost: list[float]) -> bool:
        return any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for _, other in known)

    return tuple(row for row, cost in known if not is_excelled(cost))


def seed_key(parameters: Sequence[Mapping[str, Any]]) -> str:
    """Find the key that says which repeat a point is: one called `seed`, with integers, of which there are several."""
    keys = dict.fromkeys(key for each in parameters for key in each)
    named = sorted((key for key in keys if short(key) == "seed"), key=len)
    for key in named:
        values = {each.get(key) for each in parameters}
        if len(values) > 1 and all(isinstance(value, int) for value in values):
            return key
    return ""


def spread_of(values: Sequence[float]) -> Spread:
    """Summarise values: mean, standard deviation, number, and half the 95 % interval of the mean."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Spread(mean, math.nan, n, math.nan)
    sd, degrees = statistics.stdev(values), n - 1
    t = QUANTILES[degrees - 1] if degrees <= len(QUANTILES) else 1.96 + 2.4 / degrees
    return Spread(mean, sd, n, t * sd / math.sqrt(n))


def _row(points: Sequence[Point], seed: str, tags: Sequence[str]) -> Row:
    done = [point for point in points if point.state == "done"]
    metrics = {tag: [point.scalars[tag] for point in done if tag in point.scalars] for tag in tags}
    states: dict[str, int] = {}
    for point in points:
        states[point.state] = states.get(point.state, 0) + 1
    return Row(
        _without(points[0].parameters, seed),
        tuple(point.number for point in points),
        len(done),
        {tag: spread_of(values) for tag, values in metrics.items() if values},
        sum(point.seconds for point in points),
        states,
    )


def _without(parameters: Mapping[str, Any], seed: str) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key != seed}


def _cells(results: Results, join: str) -> list[list[str]]:
    keys = list(dict.fromkeys(key for row in results.rows for key in row.setting))
    has_front = len(results.goals) > 1
    head = [*(_names(keys)), "n", *_columns(results), *(["front"] if has_front else []), "seconds"]
    has_states = any(set(row.states) != {"done"} for row in results.rows)
    lines = [[*head, "state"] if has_states else head]
    for row in results.rows:
        line = [_value(row.setting.get(key)) for key in keys]
        spreads = {tag: _spread(row.metrics.get(tag), join) for tag in results.tags}
        spreads[INTERVAL] = _interval(row.metrics.get(results.goal.tag))
        line += [str(row.n), *(spreads[name] for name in _columns(results))]
        line += ["*" if row in results.front else ""] if has_front else []
        line.append(f"{row.seconds:.1f}")
        states = ", ".join(f"{many} {state}" for state, many in row.states.items())
        lines.append([*line, states] if has_states else line)
    return lines


def _columns(results: Results) -> list[str]:
    """Return the metrics; behind the one to improve stands the interval of its mean, if a setting has several seeds."""
    goal = results.goal.tag
    has_interval = any(goal in row.metrics and row.metrics[goal].n > 1 for row in results.rows)
    return [name for tag in results.tags for name in ([tag, INTERVAL] if tag == goal and has_interval else [tag])]


def _interval(spread: Spread | None) -> str:
    if spread is None or spread.n < 2:
        return "-"
    return f"{spread.mean - spread.half:.4g} to {spread.mean + spread.half:.4g}"


def _names(keys: Sequence[str]) -> list[str]:
    """Shorten keys to their last parts, where those differ."""
    shorts = [short(key) for key in keys]
    return [one if shorts.count(one) == 1 else key.lstrip("+") for one, key in zip(shorts, keys, strict=True)]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _spread(spread: Spread | None, join: str) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.4g}" if spread.n < 2 else f"{spread.mean:.4g}{join}{spread.sd:.2g}"


def _text(results: Results) -> str:
    cells = _cells(results, " ± ")
    lines = [text_table(cells, right=range(len(cells[0]) - ("state" in cells[0])))]
    if results.seed:
        text = f"; {INTERVAL}: interval of the mean" if INTERVAL in cells[0] else ""
        lines.append(f"mean ± standard deviation over {results.seed}{text}; n is the number of points that are done")
    if results.best is not None:
        value = results.best.scalars[results.goal.tag]
        text = f"best: point {results.best.number} ({label(results.best.parameters)}), {results.goal.tag} {value:.6g}"
        lines.append(f"{text}: {results.directory / results.best.directory}")
    if len(results.goals) > 1 and results.front:
        tags, many = " and ".join(goal.tag for goal in results.goals), len(results.front)
        whose = "setting is" if many == 1 else "settings are"
        text = f"{many} {whose} on the Pareto front (*): none is better in one of {tags}, and not worse in another"
        lines.append(f"{text}; the best above is that of {results.goal.tag} alone" if many > 1 else text)
    lines += [f"failed: point {point.number} ({label(point.parameters)}): {point.reason}" for point in results.failed]
    for point, names in results.left_out:
        text = f"point {point.number} ({label(point.parameters)}) differs: {', '.join(names)}"
        lines.append(f"left out: {text}; list its values to train it again")
    lines.append(f"cost: {results.seconds:.1f} s in all points; sweep folder: {results.directory}")
    return "\n".join(lines)


def _csv(results: Results) -> str:
    records = results.records()
    names = list(dict.fromkeys(name for record in records for name in record if name != "points"))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().rstrip("\n")


def _markdown(results: Results) -> str:
    head, *lines = _cells(results, " ± ")
    rule = ["---"] * len(head)
    return "\n".join(
        f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |" for line in [head, rule, *lines]
    )


def _latex(results: Results) -> str:
    head, *lines = _cells(results, r" $\pm$ ")

    def escaped(text: str) -> str:
        return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")

    body = [" & ".join(map(escaped, line)) + r" \\" for line in (head, *lines)]
    numbers = len(_columns(results)) + 1
    columns = "l" * (len(head) - numbers) + "r" * numbers
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\hline", body[0], r"\hline", *body[1:], r"\hline", r"\end{tabular}"]
    )
