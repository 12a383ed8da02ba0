"""Small pictures of curves and tables in HTML, for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's colours, which colour-blind people can tell apart."""

Points = Sequence[tuple[int, float]]

WIDTH, HEIGHT, MARGIN = 420, 120, 6
"""Pixels of a picture, and those that are left free around its curves."""

MOST = 400
"""Points of a curve that are drawn; a picture has hardly more columns."""


def curves_svg(curves: Mapping[str, Points]) -> str:
    """Draw curves over steps, with a legend of their names and the range of their values.

    Args:
      curves: (step, value) by name; values that are not finite leave a gap.

    Returns: an `<svg>`; "" without two points of one curve.
    """
    shown = {name: _thinned([point for point in points if math.isfinite(point[1])]) for name, points in curves.items()}
    shown = {name: points for name, points in shown.items() if len(points) > 1}
    if not shown:
        return ""
    steps = [step for points in shown.values() for step, _ in points]
    values = [value for points in shown.values() for _, value in points]
    left, low = min(steps), min(values)
    wide, high = max(max(steps) - left, 1), (max(values) - low) or 1.0

    def place(step: int, value: float) -> str:
        across = MARGIN + (step - left) / wide * (WIDTH - 2 * MARGIN)
        down = HEIGHT - MARGIN - (value - low) / high * (HEIGHT - 2 * MARGIN)
        return f"{across:.1f},{down:.1f}"

    lines, legend = [], []
    for (name, points), colour in zip(shown.items(), _repeated(len(shown)), strict=True):
        path = " ".join(place(step, value) for step, value in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        legend.append(f'<span style="color:{colour}">■</span> {escape(name)}')
    note = f"{' &nbsp; '.join(legend)} &nbsp; {low:.4g} to {max(values):.4g}, step {left} to {max(steps)}"
    picture = f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="curves">{"".join(lines)}</svg>'
    return f"<div>{picture}<br><small>{note}</small></div>"


def table_html(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as a table; the first row is the heading, and all but the first column end in one line."""
    head, *others = ([escape(cell) for cell in row] for row in rows)
    style = 'style="text-align:right"'

    def line(cells: Sequence[str], kind: str) -> str:
        first, *more = cells
        return (
            f'<tr><{kind} style="text-align:left">{first}</{kind}>'
            + "".join(f"<{kind} {style}>{cell}</{kind}>" for cell in more)
            + "</tr>"
        )

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in others)}</table>"


def _thinned(points: Points) -> Points:
    return points[:: math.ceil(len(points) / MOST)] if points else points


def _repeated(count: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(count)]
