"""A preview of a sweep: its points, without training any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framework.errors import FrameworkError
from framework.sweeps import folder as folders
from framework.sweeps import plan as plans
from framework.sweeps.labels import label
from framework.sweeps.ledger import OPEN, Ledger, Point
from framework.sweeps.plan import Plan
from framework.sweeps.points import Content, config_of, content_of, differences, read_content
from framework.sweeps.space import covers, words_of
from framework.sweeps.start import OVER, changes, same
from framework.sweeps.status import seen

LISTED = 3
"""Differences that a line names."""


class Planned(NamedTuple):
    """A point of a preview.

    Attributes:
      number: that it has, or will have.
      parameters: its values.
      state: done, cut or new, and what differs from the nearest point that is done.
    """

    number: int
    parameters: Mapping[str, Any]
    state: str


class Preview(NamedTuple):
    """A sweep that is not trained.

    Attributes:
      search: name of the search.
      directory: of the sweep that the command goes on with; None for a new one.
      total: number of points; None if that is open.
      points: at most the first 100 where the number is open.
      left_out: points of former values that the table would leave out, since they differ.
    """

    search: str
    directory: Path | None
    total: int | None
    points: tuple[Planned, ...]
    left_out: tuple[Planned, ...] = ()

    def text(self) -> str:
        """Write a line for each point."""
        folder = f"goes on in {self.directory}" if self.directory else "begins a new folder"
        listed = (*self.points, *self.left_out)
        size = max((len(str(each.number)) for each in listed), default=0)
        lines = [f"  {each.number:>{size}}  {label(each.parameters)}: {each.state}" for each in listed]
        return "\n".join([f"{self.total or 'an open number of'} points by {self.search}, {folder}", *lines])


def preview(plan: Plan) -> Preview:
    """Look which points of a plan are done, cut or new."""
    search, goals, settings = plans.search_of(plan), plans.goals_of(plan), plan.settings
    folder = Path(settings.dir) if settings.dir else folders.find(Path(settings.root), plan.name, plan.identity)
    points: list[Point] = []
    changed: Mapping[int, list[str]] = {}
    left_out: list[Planned] = []
    if folder is not None and folders.is_sweep(folder) and not settings.new:
        plan = same(folder, plan)
        with Ledger(folders.ledger_of(folder)) as ledger:
            points = seen(folder, ledger).points
        found = changes(folder, points, plan, *OVER, *OPEN, "failed")
        changed = {each.point.number: each.names for each in found if each.begins_anew}
        former = [each for each in found if not covers(plan.space, each.point.parameters)]
        for point, names, *_ in former:
            text = f"left out of the table, since it differs: {', '.join(names[:LISTED])}"
            left_out.append(Planned(point.number, point.parameters, text))
    total = search.begin(plan.space, goals, settings.search_seed)
    done = [point for point in points if point.state in ("done", "pruned")]
    planned: list[Planned] = []
    known = {json.dumps(dict(point.parameters), sort_keys=True): point for point in points}
    while (trial := search.ask()) is not None and len(planned) < (total or 100):
        point = known.get(json.dumps(dict(trial.parameters), sort_keys=True))
        number = len(planned) + 1 if point is None else point.number
        search.told_number(trial, number)
        planned.append(Planned(number, trial.parameters, _said(plan, trial.parameters, point, changed, done)))
    return Preview(plan.search["name"], folder if points else None, total, tuple(planned), tuple(left_out))


def _said(
    plan: Plan,
    parameters: Mapping[str, Any],
    point: Point | None,
    changed: Mapping[int, list[str]],
    done: Sequence[Point],
) -> str:
    if point is not None and point.number in changed:
        return f"again, since it differs: {', '.join(changed[point.number][:LISTED])}"
    if point is not None and point.state != "waiting":
        return f"{point.state}" + (f" at step {point.step}" if point.state not in ("done", "failed") else "")
    try:
        content = content_of(config_of((*plan.words, *words_of(parameters)), plan.config_dir))
    except FrameworkError as error:
        return f"cannot be run: {error}"
    nearest = _nearest(content, done)
    if nearest is None:
        return "new"
    number, names = nearest
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"new; differs from point {number} in {', '.join(names[:LISTED])}{more}"


def _nearest(content: Content, done: Sequence[Point]) -> tuple[int, list[str]] | None:
    read = [(point.number, read_content(point.content)) for point in done]
    found = [(number, differences(old, content)) for number, old in read if old is not None]
    return min(found, key=lambda each: len(each[1]), default=None)
