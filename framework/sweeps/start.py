"""The start of a sweep: find or make its folder, compare what is done, and drive it to its end."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from framework.config.compose import Config
from framework.contracts.search import Choice, Goal, Interval
from framework.errors import ConfigError, FrameworkError, StorageError
from framework.runs import signals
from framework.startup import import_jax
from framework.sweeps import folder as folders
from framework.sweeps import plan as plans
from framework.sweeps.driver import Driver, is_lost
from framework.sweeps.here import Hereabouts
from framework.sweeps.labels import label
from framework.sweeps.ledger import OPEN, Ledger, Point, State
from framework.sweeps.plan import Plan
from framework.sweeps.points import (
    NAMED,
    Content,
    config_of,
    content_of,
    data_digests,
    differences,
    hash_of,
    next_folder,
    read_content,
)
from framework.sweeps.results import results_of
from framework.sweeps.space import covers
from framework.sweeps.worker import is_begun

OVER: tuple[State, ...] = ("done", "pruned", "paused")
"""States of points whose numbers stand, and would be others if they were trained at present."""

Tell = Callable[[str], None]


def begin(plan: Plan) -> Path:
    """Find the sweep of the same command, or make its folder and its ledger.

    Raises: ConfigError, StorageError.
    """
    settings, root = plan.settings, Path(plan.settings.root)
    goals = plans.goals_of(plan)
    total = plans.search_of(plan).begin(plan.space, goals, settings.search_seed)  # refuse before anything is written
    plans.launcher_of(plan)
    folder = (
        Path(settings.dir) if settings.dir else None if settings.new else folders.find(root, plan.name, plan.identity)
    )
    if folder is None or not folders.is_sweep(folder):
        folder = folders.make(root, plan.name, settings.dir, plan.identity)
    folders.check_free(folder)  # its driver and workers go by what the ledger says
    plan = same(folder, plan)
    with Ledger(folders.new_ledger_of(folder, settings.ledger), create=True) as ledger:
        note(ledger, plan, goals, total)
    return folder


def same(folder: Path, plan: Plan) -> Plan:
    """Check that a folder, if it holds a sweep, holds that of the same command, though perhaps with other values.

    Returns: the plan, with its dimensions in the order of the folder's own.

    Raises: ConfigError with the words that differ: a point of other words would count as done.
    """
    if not folders.is_sweep(folder):
        return plan
    with Ledger(folders.ledger_of(folder)) as ledger:
        former = recorded(ledger)[0] if ledger.facts() else plan
    there, here = former.alike, plan.alike
    if there != here:
        theirs, ours = (" ".join(sorted(words)) or "nothing" for words in (there - here, here - there))
        text = f"{folder} holds the sweep of another command ({theirs} there, {ours} here); choose another folder."
        raise ConfigError(text, key="sweep.dir")
    return plan.in_order_of(former)


def note(ledger: Ledger, plan: Plan, goals: Sequence[Goal], total: int | None) -> None:
    """Write a plan and its number of points into the ledger, from where workers and later commands take it."""
    ledger.note(
        name=plan.name,
        words=plan.words,
        own=plan.own,
        config_dir=plan.config_dir,
        space=[[type(each).__name__, each._asdict()] for each in plan.space],
        launcher=plan.launcher,
        search=plan.search,
        settings=plan.sweep,
        goals=[goal._asdict() for goal in goals],
        watches=plans.search_of(plan).watches,
        total=total,
    )


def recorded(ledger: Ledger) -> tuple[Plan, list[Goal]]:
    """Read the plan of a ledger."""
    facts = ledger.facts()
    kinds = {"Choice": Choice, "Interval": Interval}

    def dimension(name: str, fields: dict[str, Any]) -> Any:
        if name == "Choice":
            fields = {"keys": tuple(fields["keys"]), "values": tuple(map(tuple, fields["values"]))}
        return kinds[name](**fields)

    plan = Plan(
        facts["name"],
        tuple(facts["words"]),
        tuple(facts["own"]),
        facts["config_dir"],
        [dimension(*each) for each in facts["space"]],
        facts["launcher"],
        facts["search"],
        facts["settings"],
    )
    return plan, [Goal(**goal) for goal in facts["goals"]]


def drive(folder: Path, tell: Tell, again: Sequence[str] = ("failed",)) -> int:
    """Drive a sweep to its end, as its only driver.

    Args:
      folder: of the sweep.
      tell: shows a line.
      again: states of points that are begun once more.

    Returns: the exit code of the first point that has failed, else 0.

    Raises: ConfigError if another process drives it; InterruptError after a signal; FrameworkError.
    """
    with folders.driven(folder), Ledger(folders.ledger_of(folder)) as ledger:
        (folder / folders.STOP).unlink(missing_ok=True)
        plan, goals = recorded(ledger)
        for point in ledger.points():
            if point.state in again and covers(plan.space, point.parameters):
                ledger.reopen(point.number)
        launcher = plans.launcher_of(plan)
        for point in ledger.points("running"):
            if is_lost(folder, point, launcher):
                ledger.finish(point.number, None, "lost", reason="its process is gone")
        _compare(folder, ledger, plan, tell)
        search = plans.search_of(plan)
        search.keep(folder)
        driver = Driver(folder, ledger, plan, goals, search, tell)
        counts = ledger.counts()
        if counts.get("done"):
            tell(f"{counts['done']} of {max(driver.total or 0, sum(counts.values()))} points are done already")
        with signals.raised():
            return driver.drive(launcher, Hereabouts(folder, plan.config_dir, driver.lines, tell))


class Change(NamedTuple):
    """A point that would come out otherwise at present.

    Attributes:
      point: as it was begun.
      names: of what differs.
      content: at present.
      begins_anew: it is over, or its run could not go on since more than code differs.
    """

    point: Point
    names: list[str]
    content: Content
    begins_anew: bool


def _compare(folder: Path, ledger: Ledger, plan: Plan, tell: Tell) -> None:
    """Name what has changed since points were begun: they begin anew, or go on if they can.

    Those of former values, which nobody asks for, are noted, so that no mean is over unlike points.
    """
    unlike: dict[str, list[str]] = {}
    for point, names, content, begins_anew in changes(folder, ledger.points(), plan, *OVER, *OPEN, "failed"):
        name, differ = f"point {point.number} ({label(point.parameters)})", ", ".join(names)
        if not covers(plan.space, point.parameters):
            unlike[str(point.number)] = names
            tell(f"{name} is left out of the table, since it differs: {differ}; list its values to train it again")
        elif point.state == "failed":  # and is not begun once more
            continue
        elif begins_anew:
            tell(f"{name} is trained again, since it differs: {differ}")
            ledger.reopen(point.number, directory=next_folder(folder, point.number, point.parameters))
        else:
            tell(f"{name} goes on with what has changed: {differ}")
            ledger.rehash(point.number, hash_of(content), content._asdict())
    ledger.note(unlike=unlike)


def changes(folder: Path, points: Iterable[Point], plan: Plan, *states: State) -> list[Change]:
    """Return which points in some states were begun and would come out otherwise at present."""
    found = []
    digests: dict[str, dict[str, str]] = {}
    for point in points:
        if point.state not in states or (old := _made_of(folder, point)) is None:
            continue
        try:
            config = config_of(point.words, plan.config_dir)
        except FrameworkError as error:
            if covers(plan.space, point.parameters):
                raise
            found.append(Change(point, [f"its config is refused ({error})"], old, False))
            continue
        new, key = content_of(config), json.dumps(config.values.get("data"), default=str)
        if key not in digests:
            digests[key] = _read_data(config)
        new = new._replace(data=digests[key])
        if names := differences(old, new):
            is_more = bool(differences(old, new._replace(components=old.components)))
            is_more = is_more or any(name.startswith(NAMED) for name in names)
            found.append(Change(point, names, new, point.state in OVER or (is_more and is_begun(folder, point))))
    return found


def _made_of(folder: Path, point: Point) -> Content | None:
    """Return what a point was begun with; of one that did not end, the record of its run knows the data."""
    content = read_content(point.content)
    if content is None or content.data or not is_begun(folder, point):
        return content
    from framework.records.record import read_record

    with suppress(FrameworkError):
        return content._replace(data=data_digests(read_record(folder / point.directory).splits))
    return content


def _read_data(config: Config) -> dict[str, str]:
    """Return the digests of the data as they are; of data that cannot be read, none: the attempt tells it."""
    import_jax()
    from framework.experiment import data_of

    with suppress(FrameworkError):
        return data_digests({name: dict(each) for name, each in data_of(config).fingerprint().items()})
    return {}


def best_of(folder: Path) -> tuple[Path, str]:
    """Return the run folder of the best point of a sweep, and a name for a run of it: "mnist-20261130-120000-1a2b-003".

    Raises: StorageError if it is no sweep, or no point of it is done.
    """
    with Ledger(folders.ledger_of(folders.check(folder))) as ledger:
        plan, goals = recorded(ledger)
        best = results_of(folder, ledger, goals).best
    if best is None:
        raise StorageError(f"{folder} has no point that is done, and so no best one.")
    return folder / best.directory, re.sub(r"[^\w.+@-]", "_", f"{plan.name}-{folder.resolve().name}-{best.number:03}")


def show(line: str) -> None:
    """Show a line on stderr."""
    sys.stderr.write(f"{line}\n")
