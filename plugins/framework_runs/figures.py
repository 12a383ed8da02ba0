"""Charts of a sweep by Matplotlib: curves, parallel coordinates, slices, importances and the Pareto front."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from framework.errors import ConfigError
from framework.sweeps.labels import short
from framework_runs.curves import charts
from framework_runs.drawn import Axis, Setting, Sweep, axis
from framework_runs.importances import importances

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes"], None]

GREY, DARK = "#b4b4b4", "#444444"

ACROSS = 3
"""Charts in a row."""

TICKS = 7
"""Values of a parameter that are told at its axis one by one; of more, Matplotlib chooses some."""


def kinds_of(sweep: Sweep) -> dict[str, list[Draw]]:
    """Return what draws each chart, by kind; kinds that have nothing to show are left out."""
    tags = [goal.tag for goal in sweep.goals]
    found = {
        "curves": _curves(sweep),
        "parallel": [lambda axes: _parallel(axes, sweep)] if sweep.parameters else [],
        "slices": [_slice(sweep, each, tag) for tag in tags for each in sweep.parameters],
        "importances": [_importances(sweep, tag) for tag in tags if shares_of(sweep, tag)],
        "front": [lambda axes: _front(axes, sweep)] if len(tags) > 1 else [],
    }
    return {kind: draws for kind, draws in found.items() if draws}


def shares_of(sweep: Sweep, tag: str) -> dict[str, float]:
    """Return how much each parameter, the seed too, matters to a metric; docs/sweep.md says what the number is."""
    points = [point for point in sweep.done if tag in point.scalars]
    return importances([point.parameters for point in points], [point.scalars[tag] for point in points])


def picture(sweep: Sweep, kinds: Sequence[str], format: str) -> bytes:
    """Draw kinds of charts into one picture.

    Args:
      kinds: such as "curves"; each begins a row.
      format: "png" or "svg".

    Raises: ConfigError without Matplotlib.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        text = 'plots of a sweep need Matplotlib: pip install "framework[plots]".'
        raise ConfigError(text, key="plot") from error
    rows = _rows(kinds_of(sweep), kinds)
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "sweep", "font.size": 9, "axes.titlesize": 10}
    with mpl.rc_context(style), io.BytesIO() as file:
        named = [each for each in sweep.settings if each.is_named] if set(kinds) - {"importances"} else []
        tall = 3.3 * len(rows) + 0.2 * len(named) / 2 + 0.4
        figure = Figure(figsize=(11, tall), dpi=110, layout="constrained")
        grid = figure.add_gridspec(len(rows), 6)
        for row, draws in enumerate(rows):
            across = 6 // len(draws)
            for column, draw in enumerate(draws):
                draw(figure.add_subplot(grid[row, column * across : (column + 1) * across]))
        if named:
            _legend(figure, sweep, named)
        figure.savefig(file, format=format, metadata={"Date": None} if format == "svg" else None)
        return file.getvalue()


def _rows(drawn: dict[str, list[Draw]], kinds: Sequence[str]) -> list[list[Draw]]:
    """Place charts in rows, in their order; parallel coordinates, which are wide, have a row of their own."""
    rows: list[list[Draw]] = []
    is_wide = True
    for kind in kinds:
        for draw in drawn[kind]:
            if is_wide or kind == "parallel" or len(rows[-1]) == ACROSS:
                rows.append([])
            rows[-1].append(draw)
            is_wide = kind == "parallel"
    return rows


def _legend(figure: Any, sweep: Sweep, named: Sequence[Setting]) -> None:
    from matplotlib.lines import Line2D

    faces = {each.runs.label: _dot(each, False)["facecolor"] for each in named}
    handles = [
        Line2D([], [], label=name, marker="o", ms=4, mfc=faces[name], **_line(each))
        for name, each in ((each.runs.label, each) for each in named)
    ]
    if more := len(sweep.settings) - len(named):
        handles.append(Line2D([], [], color=GREY, label=f"{more} more, which are worse"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower left", ncols=max(1, min(3, 150 // (longest + 8))), frameon=False)


def _line(setting: Setting, is_best: bool = False) -> dict[str, Any]:
    dashes = [float(each) for each in setting.colour.dashes.split()] if setting.is_named else []
    colour = setting.colour.value if setting.is_named else GREY
    wide = 2.6 if is_best else 1.5 if setting.is_named else 0.8
    return {"color": colour, "lw": wide, "ls": (0, dashes) if dashes else "-", "zorder": _order(setting) + is_best}


def _dot(setting: Setting, is_ringed: bool) -> dict[str, Any]:
    """Return the style of dots: full, or, where the setting's lines are dashed, hollow."""
    colour = _line(setting)["color"]
    face = "white" if setting.is_named and setting.colour.dashes else colour
    return {"facecolor": face, "edgecolor": DARK if is_ringed else colour, "zorder": _order(setting)}


def _order(setting: Setting) -> float:
    return 3.0 if setting.is_named else 2.0


def _curves(sweep: Sweep) -> list[Draw]:
    """Return a chart for each metric of evaluations, in which a band is a standard deviation over seeds wide."""
    of = {setting.runs.label: setting for setting in reversed(sweep.settings)}  # the best are drawn last, on top
    tags = dict.fromkeys(goal.tag for goal in sweep.goals)
    tags |= dict.fromkeys(tag for tag in sweep.results.tags if tag.startswith("eval/"))
    found = []
    for tag in [*tags, "train/loss"]:
        if len(found) == ACROSS or (found and tag == "train/loss"):
            break
        drawn = charts([setting.runs for setting in of.values()], [tag])

        def draw(axes: Axes, tag: str = tag, drawn: Any = drawn) -> None:
            values = []
            for curve in drawn[0].curves:
                style = _line(of[curve.label])
                axes.plot(curve.steps, curve.middle, **style)
                if curve.low and of[curve.label].is_named:
                    axes.fill_between(curve.steps, curve.low, curve.high, color=style["color"], alpha=0.15, lw=0)
                values += curve.middle
            _titled(axes, f"{tag} by step", x="step")
            _scale(axes, axis(tag, values), "y")

        found += [draw] if drawn else []
    return found


def _parallel(axes: Axes, sweep: Sweep) -> None:
    """Draw each setting as a line across an axis for each parameter, and one for each metric to improve."""
    columns = [*sweep.parameters, *(sweep.metric(goal.tag) for goal in sweep.goals)]
    for place, setting in reversed(list(enumerate(sweep.settings))):
        values = [setting.parameters.get(each.key) for each in sweep.parameters]
        values += [setting.mean(goal.tag) for goal in sweep.goals]
        if all(math.isfinite(setting.mean(goal.tag)) for goal in sweep.goals):
            shares = [column.share(value) for column, value in zip(columns, values, strict=True)]
            axes.plot(range(len(columns)), shares, marker="o", ms=3, **_line(setting, place == 0))
    for place, column in enumerate(columns):
        axes.axvline(place, color=DARK, lw=0.8, zorder=1)
        for value, share in _apart(_ticks_of(column)):
            beside: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "zorder": 5}
            box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75}
            axes.annotate(_text(value), (place, share), fontsize=8, bbox=box, **beside)
    axes.set_xticks(range(len(columns)), [column.name for column in columns])
    axes.set_yticks([])
    axes.set_xlim(-0.05, len(columns) - 1 + 0.35)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _titled(axes, "settings; the thick line is the best one")
    axes.grid(False)


def _ticks_of(column: Axis) -> list[tuple[Any, float]]:
    if not column.is_number or len(column.values) <= TICKS:
        return [(value, column.share(value)) for value in column.values]
    low, high = column.values[0], column.values[-1]
    parts = [k / 4 for k in range(5)]
    values = [low * (high / low) ** part if column.is_log else low + (high - low) * part for part in parts]
    return [(float(f"{value:.2g}") if 0 < k < 4 else value, parts[k]) for k, value in enumerate(values)]


def _apart(ticks: list[tuple[Any, float]]) -> list[tuple[Any, float]]:
    """Leave out ticks that would overlap with the one before."""
    kept: list[tuple[Any, float]] = []
    for value, share in ticks:
        if not kept or share - kept[-1][1] > 0.06:
            kept.append((value, share))
    return kept


def _slice(sweep: Sweep, parameter: Axis, tag: str) -> Draw:
    """Return what draws a metric of each point over one parameter, and the median at each of its values."""

    def draw(axes: Axes) -> None:
        at: dict[float, list[float]] = {}
        for place, setting in reversed(list(enumerate(sweep.settings))):
            values = [point.scalars[tag] for point in setting.points if tag in point.scalars]
            x = parameter.at(setting.parameters.get(parameter.key))
            axes.scatter([x] * len(values), values, s=26, **_dot(setting, place == 0))
            at.setdefault(x, []).extend(values)
        kept = {x: statistics.median(values) for x, values in sorted(at.items()) if values}
        if len(kept) <= 2 * TICKS:
            axes.plot([*kept], [*kept.values()], color=DARK, lw=0.8, ls="--", zorder=1)
        _titled(axes, f"{tag} by {parameter.name}", x=parameter.name)
        _scale(axes, parameter, "x")
        _scale(axes, axis(tag, [point.scalars[tag] for point in sweep.done if tag in point.scalars]), "y")

    return draw


def _importances(sweep: Sweep, tag: str) -> Draw:
    def draw(axes: Axes) -> None:
        shares = shares_of(sweep, tag)
        names = [short(key) for key in shares]
        known = [0.0 if math.isnan(share) else share for share in shares.values()]
        axes.barh(range(len(names)), known, color=DARK, height=0.6)
        for place, share in enumerate(shares.values()):
            text = "too few points to tell" if math.isnan(share) else f"{100 * share:.0f} %"
            axes.annotate(
                text, (0 if math.isnan(share) else share, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        _titled(axes, f"share of {tag} explained")
        axes.grid(False, axis="y")

    return draw


def _front(axes: Axes, sweep: Sweep) -> None:
    """Draw the first two metrics to improve against each other, with a line through the settings on the front."""
    first, second = sweep.goals[0].tag, sweep.goals[1].tag
    on = sorted((each.mean(first), each.mean(second)) for each in sweep.settings if each.is_on_front)
    axes.plot(*zip(*on, strict=True), color=DARK, lw=0.8, ls="--", zorder=1)
    for setting in reversed(sweep.settings):
        axes.scatter(setting.mean(first), setting.mean(second), s=34, **_dot(setting, setting.is_on_front))
    _titled(axes, "Pareto front (dashed)", x=first, y=second)
    _scale(axes, sweep.metric(first), "x")
    _scale(axes, sweep.metric(second), "y")


def _titled(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)


def _scale(axes: Axes, column: Axis, which: str) -> None:
    """Make an axis logarithmic, and tell the values of a parameter that has few."""
    if column.is_log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if which == "x" and len(column.values) <= TICKS:
        axes.set_xticks([column.at(value) for value in column.values], [_text(value) for value in column.values])
        axes.minorticks_off()
    if which == "x" and not column.is_number:
        axes.set_xlim(-0.5, len(column.values) - 0.5)


def _text(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 18 else f"{text[:17]}…"
