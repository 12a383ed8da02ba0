"""Progress of a run in a notebook: a bar, the last numbers and the curve of the loss, in the cell that trains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import Any

from framework.api import Callback, Run, Summary, curves_svg
from framework_callbacks.live import Line
from framework_callbacks.pace import Pace

DRAW_SECONDS = 0.5
"""Least time between two drawings; each sends a few kilobytes to the browser."""

COLUMNS = 100
"""Width of the line in letters."""


class NotebookProgress(Callback):
    """Progress that is drawn anew in its place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def on_start(self, run: Run) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self._html, self._line, self._run = HTML, Line(run, Pace(run)), run
        self._drawn, self._step = time.monotonic(), run.start_step
        self._curves: dict[str, list[tuple[int, float]]] = {
            tag: list(run.history.series(tag)) for tag in ("train/loss", "eval/loss")
        }
        self._handle = display(HTML(self._picture("compiling")), display_id=True)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._line.update(step, scalars)
        self._step = step
        for tag, points in self._curves.items():
            if tag in scalars:
                points.append((step, scalars[tag]))
        if time.monotonic() - self._drawn >= DRAW_SECONDS:
            self._draw()

    def on_end(self, summary: Summary) -> None:
        if self._handle is not None:
            self._draw(summary.status)
            self._handle = None

    def _draw(self, note: str = "") -> None:
        self._handle.update(self._html(self._picture(note)))
        self._drawn = time.monotonic()

    def _picture(self, note: str = "") -> str:
        text = self._line.text(COLUMNS) + (f" · {note}" if note else "")
        bar = f'<progress value="{self._step}" max="{max(self._run.total_steps, 1)}" style="width:100%"></progress>'
        lines = f"<div>{escape(self._run.name)}</div>{bar}<pre>{escape(text)}</pre>"
        return f'<div style="max-width:60em">{lines}{curves_svg(self._curves)}</div>'
