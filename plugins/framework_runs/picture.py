"""Charts as SVG, which needs nothing, and as PNG, which needs Matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from framework.errors import ConfigError
from framework_runs.curves import Chart, Curve

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 34
"""Margins of the plot in its chart, in pixels."""

LEGEND = 17
"""Height of a line of the legend."""


class Scale(NamedTuple):
    """The range of an axis, its ticks, and its length in pixels from where it begins."""

    low: float
    high: float
    ticks: Sequence[float]
    start: float
    length: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + self.length * (value - self.low) / (self.high - self.low)


def svg(charts: Sequence[Chart], columns: int = 1) -> str:
    """Draw charts as one SVG, in rows of so many."""
    heights = [_height(chart) for chart in charts]
    rows = [max(heights[first : first + columns]) for first in range(0, len(charts), columns)]
    width, height = WIDTH * min(columns, max(1, len(charts))), sum(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    parts.append(f'<rect width="{width}" height="{height}" fill="#fff"/>')
    for index, chart in enumerate(charts):
        place = f"translate({index % columns * WIDTH} {sum(rows[: index // columns])})"
        parts.append(f'<g transform="{place}">{drawing(chart)}</g>')
    return "".join([*parts, "</svg>\n"])


def drawing(chart: Chart) -> str:
    """Return the elements of one chart, `WIDTH` pixels wide, with its legend below."""
    x, y = scales(chart)
    parts = [
        f'<text x="{LEFT}" y="16" font-size="13" font-weight="600" {_FONT}>{escape(chart.title)}</text>',
        f'<rect x="{LEFT}" y="{TOP}" width="{x.length:.0f}" height="{-y.length:.0f}" fill="#fff" stroke="#ccc"/>',
    ]
    for value in y.ticks:
        at = y.at(value)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end" {_SMALL}>{value:.4g}</text>')
    for value in x.ticks:
        at = x.at(value)
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        place = f'x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}"'
        parts.append(f'<text {place} text-anchor="middle" {_SMALL}>{_steps(value)}</text>')
    parts += [line for curve in chart.curves for line in _lines(curve, x, y)]
    for k, curve in enumerate(chart.curves):
        at = HEIGHT - 4 + LEGEND * k
        stroke = _stroke(curve)
        parts.append(f'<path d="M{LEFT} {at}h22" {stroke}/>')
        parts.append(f'<text x="{LEFT + 28}" y="{at + 4}" {_SMALL}>{escape(_cut(curve.label))}</text>')
    return "".join(parts)


def scales(chart: Chart) -> tuple[Scale, Scale]:
    """Return the axes of a chart. Few values at either end may leave it, if they would press the others flat."""
    steps = [step for curve in chart.curves for step in curve.steps]
    values = sorted(value for curve in chart.curves for value in (*curve.middle, *curve.low, *curve.high))
    trim = len(values) // 50
    low, high = values[trim], values[-1 - trim]
    if values[-1] - values[0] < 3 * (high - low):
        low, high = values[0], values[-1]
    pad = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    first, last = min(steps), max(steps)
    x = Scale(first, last if last > first else first + 1, _ticks(first, last), LEFT, WIDTH - LEFT - RIGHT)
    bottom, top = low - pad, high + pad
    return x, Scale(bottom, top, _ticks(bottom, top), HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT)


def png(charts: Sequence[Chart], columns: int = 1) -> bytes:
    """Draw charts as PNG.

    Raises: ConfigError without Matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        text = "a PNG needs Matplotlib, which is not installed; write an SVG, which needs nothing."
        raise ConfigError(text, key="--plot") from error
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.6 * rows), dpi=100, layout="constrained")
    for index, chart in enumerate(charts):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(chart.title, loc="left", fontsize=10)
        for curve in chart.curves:
            numbers = [float(each) for each in curve.colour.dashes.split()]
            style = (0, numbers) if numbers else "-"
            wide, strong = (0.8, 0.6) if curve.is_faint else (1.6, 1.0)
            axes.plot(
                curve.steps, curve.middle, color=curve.colour.value, lw=wide, alpha=strong, ls=style, label=curve.label
            )
            if curve.low:
                axes.fill_between(curve.steps, curve.low, curve.high, color=curve.colour.value, alpha=0.15, lw=0)
        y = scales(chart)[1]
        axes.set_ylim(y.low, y.high)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()


def _height(chart: Chart) -> int:
    return HEIGHT + LEGEND * len(chart.curves) + 6


_FONT = 'font-family="system-ui, sans-serif" fill="#222"'
_SMALL = f'font-size="11" {_FONT}'


def _lines(curve: Curve, x: Scale, y: Scale) -> list[str]:
    found = []
    if curve.low:
        edge = [*zip(curve.steps, curve.low, strict=True), *reversed([*zip(curve.steps, curve.high, strict=True)])]
        found.append(f'<polygon points="{_points(edge, x, y)}" fill="{curve.colour.value}" fill-opacity="0.15"/>')
    points = _points([*zip(curve.steps, curve.middle, strict=True)], x, y)
    name = escape(curve.label, quote=True)
    found.append(f'<polyline data-name="{name}" points="{points}" fill="none" {_stroke(curve)}/>')
    if len(curve.steps) == 1:
        place = f'cx="{x.at(curve.steps[0]):.1f}" cy="{y.at(curve.middle[0]):.1f}"'
        found.append(f'<circle {place} r="3" fill="{curve.colour.value}"/>')
    return found


def _points(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    low, high = TOP, HEIGHT - BOTTOM
    return " ".join(f"{x.at(step):.1f},{min(max(y.at(value), low), high):.1f}" for step, value in points)


def _stroke(curve: Curve) -> str:
    dashes = f' stroke-dasharray="{curve.colour.dashes}"' if curve.colour.dashes else ""
    width, opacity = ("1", "0.55") if curve.is_faint else ("1.8", "1")
    return f'stroke="{curve.colour.value}" stroke-width="{width}" stroke-opacity="{opacity}"{dashes}'


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers within a range."""
    if not high > low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    found = [k * step for k in range(first, math.floor(high / step) + 1)]
    return [0.0 if abs(value) < step / 1e6 else value for value in found]


def _steps(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _cut(text: str) -> str:
    return text if len(text) <= 90 else text[:89] + "…"
