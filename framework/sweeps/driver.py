"""The driver of a sweep: it asks the search for points, hands them to the launcher, and keeps the ledger true.

All that counts is in the ledger. So a driver that was killed is followed by another that goes on: points that are done
stay, those that were cut go on from their checkpoints, and the search is told the same reports in the same order.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from framework.contracts.launcher import Here, Job, Launcher, Outcome
from framework.contracts.search import Goal, Report, Search, Trial
from framework.errors import FrameworkError
from framework.sweeps import folder as folders
from framework.sweeps.labels import label
from framework.sweeps.ledger import LEASE, OPEN, Event, Ledger, Point
from framework.sweeps.lines import JobLines
from framework.sweeps.plan import Plan
from framework.sweeps.points import (
    Content,
    Files,
    config_of,
    content_of,
    differences,
    folder_name,
    hash_of,
    next_folder,
    present_config,
    read_content,
)
from framework.sweeps.space import words_of
from framework.sweeps.worker import TAKEN, is_begun, job_of

PERMANENT = (2, 3, 4, 6, 124)
"""Exit codes of mistakes that a second attempt would make again: config, plugin, data, numbers, and time."""

LOSSES = 5
"""Times in a row that a point may be lost without a step of progress, before it counts as failed: what kills it is the
point itself, such as its need of memory."""

LISTEN = 0.02
"""Seconds between two looks for reports, where the search answers them."""

Tell = Callable[[str], None]


class Driver:
    """One driver, while it drives."""

    def __init__(self, sweep: Path, ledger: Ledger, plan: Plan, goals: list[Goal], search: Search, tell: Tell) -> None:
        """Restore the search from the ledger.

        Args:
          sweep: the folder.
          tell: shows a line.
        """
        self.sweep, self.ledger, self.plan, self.search, self.tell = sweep, ledger, plan, search, tell
        self.goals, self.settings = goals, plan.settings
        self.lock = threading.RLock()  # of the search: a thread answers while the launcher waits
        self.trials: dict[int, Trial] = {}
        self.told = 0  # the last event that the search knows
        self.out: dict[int, int] = {}  # attempts that the launcher has, by point
        self.made_of: dict[int, Content | None] = {}  # what these points were made of when the launcher got them
        self.files = Files()
        self.losses: dict[int, tuple[int, int]] = {}  # how often in a row, and at which step
        self.launcher: Launcher | None = None
        self.failed = False
        self.is_short = False  # a point that ended before the search decides was named
        self.exit_code = 0
        self.total = search.begin(plan.space, goals, self.settings.search_seed)
        self.unasked: dict[str, list[int]] = {}
        for point in ledger.points():
            self.unasked.setdefault(_key(point.parameters), []).append(point.number)
        self.next_number = max((point.number for point in ledger.points()), default=0) + 1
        self._restore()
        self.lines = JobLines(
            ledger.counts(), self.next_number - 1, self.told, self.total, goals[0].tag, self._may_retry, tell
        )

    def drive(self, launcher: Launcher, here: Here) -> int:
        """Train until nothing is left.

        Returns: the exit code of the first point that has failed, else 0.

        Raises: InterruptError after a signal.
        """
        self.launcher = launcher
        over = threading.Event()
        threads = [threading.Thread(target=self.lines.look_always, args=(self.ledger, over), name="jobs", daemon=True)]
        if self.search.watches:
            threads.append(threading.Thread(target=self._listen_always, args=(over,), name="search", daemon=True))
        for thread in threads:
            thread.start()
        try:
            with contextlib.closing(_generator(launcher.launch(self._jobs(), here))) as outcomes:
                for outcome in outcomes:
                    self._take(outcome)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        return self.exit_code

    def _jobs(self) -> Iterator[Job | None]:
        """Yield jobs; None where there is none at the moment."""
        while True:
            self._find_lost()
            with self.lock:
                self._listen()
                point = self._next()
            if point is not None:
                yield self._job(point)
            elif self._is_over():
                return
            else:
                yield None

    def _is_over(self) -> bool:
        if self._is_stopping():
            return not self.out
        return not self.out and not any(point.number in self.trials for point in self.ledger.points("running", *OPEN))

    def _is_stopping(self) -> bool:
        return (self.failed and self.settings.stop_on_failure) or (self.sweep / folders.STOP).exists()

    def _next(self) -> Point | None:
        """Return a point that waits, of the ledger or of the search."""
        if self._is_stopping():
            return None
        for point in self.ledger.points(*OPEN):
            if point.number in self.trials and point.number not in self.out:
                return self._sound(point)
        if self.search.ahead and len(self.out) >= self.search.ahead:
            return None
        while (trial := self.search.ask()) is not None:
            point = self._asked(trial)
            if point.state in OPEN and point.number not in self.out:
                return self._sound(point)
        return None

    def _asked(self, trial: Trial, number: int | None = None) -> Point:
        """Find the point of a trial, or add one, and tell the search its number."""
        if trial.goes_on_from is not None:
            if number is None:
                self.ledger.ask_again(trial.goes_on_from, {**trial._asdict(), "after": self.told})
            self.trials[trial.goes_on_from] = trial
            return self.ledger.point(trial.goes_on_from)
        known = self.unasked.get(_key(trial.parameters), [])
        if known:
            found = number if number in known else known[0]
            known.remove(found)
        else:
            found, self.next_number = self.next_number, self.next_number + 1
            words = (*self.plan.words, *words_of({**trial.parameters, **trial.overrides}))
            directory = f"{folders.RUNS}/{folder_name(found, trial.parameters)}"
            told = {**trial._asdict(), "after": self.told}
            self.ledger.add(found, "", trial.parameters, words, directory, None, told)
        self.trials[found] = trial
        self.search.told_number(trial, found)
        return self.ledger.point(found)

    def _sound(self, point: Point) -> Point:
        """Hash a point where that was not done, so that a later change of its config is noticed."""
        point = self._begun_anew(point)
        if not point.hash:
            with contextlib.suppress(FrameworkError):  # the attempt tells it
                config = config_of(job_of(self.sweep, point).words, self.plan.config_dir)
                for file in self.files.changed(config):
                    name = f"point {point.number} ({label(point.parameters)})"
                    self.tell(f"{file} has changed while the sweep runs: {name} and later ones are trained with it")
                content = content_of(config)
                self.ledger.rehash(point.number, hash_of(content), content._asdict())
                return point._replace(hash=hash_of(content), content=content._asdict())
        return point

    def _begun_anew(self, point: Point) -> Point:
        """Give a point that was cut another run folder, where its run could not go on, since its config has changed."""
        before = read_content(point.content)
        if before is None or self.trials[point.number].goes_on_from is not None or not is_begun(self.sweep, point):
            return point
        with contextlib.suppress(FrameworkError):  # the attempt tells it
            after = content_of(present_config(point.words, self.plan.config_dir))
            if names := differences(before, before._replace(config=after.config)):
                name = f"point {point.number} ({label(point.parameters)})"
                self.tell(f"{name} is trained again, since it differs: {', '.join(names)}")
                directory = next_folder(self.sweep, point.number, point.parameters)
                self.ledger.reopen(point.number, keep_failures=True, directory=directory)
        return self.ledger.point(point.number)

    def _job(self, point: Point) -> Job:
        job = job_of(self.sweep, point)
        self.out[point.number] = job.attempt
        self.made_of[point.number] = read_content(point.content)
        return job

    def _take(self, outcome: Outcome) -> None:
        """Compare an outcome with the ledger, where the worker has written the end, unless it was killed."""
        self.out.pop(outcome.number, None)
        point = self.ledger.point(outcome.number)
        if point.state in OPEN and outcome.exit_code == TAKEN:
            return
        if point.state in ("waiting", "preempted") and outcome.how == "ended" and outcome.exit_code:
            # It ended before it had its lease: the mistake is one of the command or of the machine.
            self.ledger.claim(point.number, "driver")
            code, reason = outcome.exit_code, outcome.reason or f"its process ended with exit code {outcome.exit_code}"
            self.ledger.finish(point.number, "driver", "failed", exit_code=code, reason=reason)
        elif point.state == "running" and (folders.is_gone(point.owner) or outcome.how == "preempted"):
            self._lose(point, outcome)
        point = self.ledger.point(outcome.number)
        with self.lock:
            self._listen()
        self.lines.look(self.ledger)
        self._name_changes(point)
        self._settle(point)

    def _name_changes(self, point: Point) -> None:
        """Name what changed between the moment at which the launcher got a point, and that at which it was begun."""
        before, after = self.made_of.pop(point.number, None), read_content(point.content)
        if before is not None and after is not None and (names := differences(before, after)):
            name = f"point {point.number} ({label(point.parameters)})"
            self.tell(f"{name} was trained with what changed while the sweep ran: {', '.join(names)}")

    def _lose(self, point: Point, outcome: Outcome | None) -> None:
        """Note that a worker is gone; its point is begun again, from its last checkpoint."""
        state = "preempted" if outcome is not None and outcome.how == "preempted" else "lost"
        code = None if outcome is None else outcome.exit_code
        reason = (outcome.reason if outcome else "") or "its process is gone"
        before, step = self.losses.get(point.number, (0, -1))
        many = before + 1 if step == point.step else 1
        self.losses[point.number] = many, point.step
        if many >= LOSSES and state == "lost":
            text = f"it was lost {many} times without a step of progress ({reason})"
            self.ledger.finish(point.number, None, "failed", exit_code=code or 1, reason=text)
        else:
            self.ledger.finish(point.number, None, state, exit_code=code, reason=reason)

    def _find_lost(self) -> None:
        """Find points whose worker is gone, or has shown no life for long."""
        for point in self.ledger.points("running"):
            if point.number not in self.out and is_lost(self.sweep, point, self.launcher):
                self._lose(point, None)

    def _settle(self, point: Point) -> None:
        """Let a point that failed be tried again, or note the first failure."""
        if point.state in ("lost", "preempted"):
            self.lines.cut(point)
        elif point.state == "failed" and self._may_retry(point):
            self.ledger.reopen(point.number, keep_failures=True)
        elif point.state == "failed":
            self.failed = True
            self.exit_code = self.exit_code or point.exit_code or 1
        elif point.state == "done":
            self._name_short(point)

    def _name_short(self, point: Point) -> None:
        """Say once that a point has ended before its search could decide on it for the first time."""
        trial = self.trials.get(point.number)
        if trial is None or trial.budget is None or trial.goes_on_from is not None or point.step > trial.budget:
            return
        if not self.is_short:
            name = f"point {point.number} ({label(point.parameters)}) ended at step {point.step}"
            self.tell(f"{name}: the search decides at step {trial.budget}, and so on no such point")
        self.is_short = True

    def _may_retry(self, point: Point) -> bool:
        return point.failures <= self.settings.retries and point.exit_code not in PERMANENT

    def _restore(self) -> None:
        """Tell the search what the ledger holds, in its order."""
        events = self.ledger.events()
        for event in events:
            if event.kind == "ask":
                self._tell_until(event.content.get("after", 0), events)
                if (trial := self.search.ask()) is not None:
                    self._asked(trial, event.number)
        self._listen()

    def _tell_until(self, last: int, events: list[Event]) -> None:
        for event in events:
            if self.told < event.id <= last and event.kind != "ask":
                self._hear(event)
        self.told = max(self.told, last)

    def _listen(self) -> None:
        """Tell the search every event that it does not know."""
        for event in self.ledger.events(self.told):
            if event.kind != "ask":
                self._hear(event)
            self.told = event.id

    def _listen_always(self, over: threading.Event) -> None:
        with Ledger(self.ledger.path) as ledger:  # a connection belongs to its thread
            while not over.wait(LISTEN):
                with self.lock:
                    for event in ledger.events(self.told):
                        if event.kind != "ask":
                            self._hear(event, ledger)
                        self.told = event.id

    def _hear(self, event: Event, ledger: Ledger | None = None) -> None:
        """Tell the search a report, and write its answer down."""
        trial, ledger = self.trials.get(event.number), ledger or self.ledger
        if trial is None:
            return
        content: Mapping[str, Any] = event.content
        status: Any = event.kind
        report = Report(event.number, int(content["step"]), content["scalars"], status)
        self.search.tell(trial, report)
        if event.kind != "running":
            return
        decision = self.search.decide(trial, report)
        if event.decision is None:
            ledger.decide(event.id, decision)
            point = ledger.point(event.number)
            if decision != "continue" and point.state in OPEN:  # its worker was gone before it heard
                ledger.settle(point.number, "pruned" if decision == "prune" else "paused")


def is_lost(sweep: Path, point: Point, launcher: Launcher | None) -> bool:
    """Tell whether the worker of a point that runs is gone, or has shown no life for long.

    The launcher, and so the scheduler, is asked before a worker that shows no life is taken for gone.
    """
    gone = folders.is_gone(point.owner)
    is_late = gone is None and (point.beat or 0) < time.time() - LEASE
    is_alive = is_late and launcher is not None and launcher.alive(job_of(sweep, point)) is True
    return bool(gone) or (is_late and not is_alive)


def _key(parameters: Mapping[str, Any]) -> str:
    return json.dumps(dict(parameters), sort_keys=True)


def _generator(outcomes: Iterator[Outcome]) -> Any:
    """Return an iterator that can be closed, whatever a launcher returns."""
    return outcomes if hasattr(outcomes, "close") else (each for each in outcomes)
