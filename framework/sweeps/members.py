"""The points of one program, each with the run folder, the record and the callbacks of a run of its own."""

from __future__ import annotations

import copy
import functools
import math
import secrets as random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framework.api import Callback, Medium, Run, StopTraining, Summary, TrainState
from framework.config import secrets
from framework.config.compose import Config
from framework.config.overrides import chosen
from framework.config.resolve import as_written, tagged
from framework.contracts.launcher import Job, Outcome
from framework.contracts.strategy import StrategyWrapper
from framework.ensembles.endings import is_of_member
from framework.errors import FrameworkError, InterruptError
from framework.experiment import Experiment, NamedCallback
from framework.records import folder as run_folders
from framework.records import logs
from framework.records.history import HistoryWriter, MetricsFile
from framework.records.media import MediaFolder, ShownBy
from framework.records.record import RunRecord, new_record, run_facts, write_config
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.runs.probes import probes_of
from framework.sweeps import folder as folders
from framework.sweeps.ledger import Ledger, State
from framework.sweeps.points import data_digests
from framework.sweeps.reporter import evaluating
from framework.sweeps.settings import metrics_of, read_settings
from framework.sweeps.together import UnfitError
from framework.sweeps.worker import Lease, Reporting, judged
from framework.training.callbacks import notify


class OfOne(StrategyWrapper):
    """The strategy of the program as one member sees it, whose state is not cut over devices."""

    def placement(self, shapes: TrainState) -> TrainState:
        """Return the shapes of a state as they are: those of members would have an axis more."""
        return shapes


def with_points(
    experiment: Experiment,
    sweep: Path,
    jobs: Sequence[Job],
    configs: Sequence[Config],
    outcomes: list[Outcome],
    stack: ExitStack,
) -> Experiment:
    """Return an experiment of members that tells each member's point what happens.

    Args:
      jobs: of the points, in the order of the members.
      configs: their own, in the same order.
      outcomes: takes one for each point.
      stack: keeps folders, logs and leases until the run is over.

    Raises: UnfitError for what the points need and members do not have.
    """
    if experiment.task.exhibits or "test" in experiment.batches.splits[1:]:
        raise UnfitError("exhibits and a test split are for points alone.")
    together = Together(experiment, sweep, jobs, configs, outcomes, stack)
    return together.experiment._replace(
        probes=(),  # each point has its own
        callbacks=(*experiment.callbacks, NamedCallback("the points of the sweep", together)),
    )


class Member:
    """One point, while its program runs."""

    def __init__(self, index: int, job: Job, config: Config, reporting: Reporting, owner: str) -> None:
        self.index, self.job, self.config, self.reporting, self.owner = index, job, config, reporting, owner
        self.callbacks: tuple[NamedCallback, ...] = ()
        self.record = RunRecord(config={})
        self.scalars: dict[str, float] = {}
        self.step = 0
        self.reason = ""  # of an end that a callback or the search asked for
        self.is_over = False


class Together(Callback):
    """A callback of the program of all members that is, to each point, the loop of its own run."""

    def __init__(
        self,
        experiment: Experiment,
        sweep: Path,
        jobs: Sequence[Job],
        configs: Sequence[Config],
        outcomes: list[Outcome],
        stack: ExitStack,
    ) -> None:
        self.sweep, self.outcomes, self.stack = sweep, outcomes, stack
        self.ledger = stack.enter_context(Ledger(folders.ledger_of(sweep)))
        facts = self.ledger.facts()
        settings = read_settings(facts["settings"])
        self.goals, self.watches, self.timeout = metrics_of(settings), bool(facts.get("watches")), settings.timeout
        self.waiting, self.members = list(zip(jobs, configs, strict=True)), list[Member]()
        self.claims: list[tuple[int, str]] = []  # numbers of points, and owners of their leases
        lengths = {"train.steps": experiment.total_steps, "train.eval_every": experiment.eval_every}
        self.settled = [config.with_values(lengths) for config in configs]
        # Periods are the same for all points, since only numbers of the step differ.
        self.periods = [each.callback.every for each in self._built(self.settled[0], Builder(discover()))]
        self.periods += [each.every for each in experiment.probes]
        budgets = [budget for job in jobs if (budget := self.ledger.point(job.number).budget) is not None]
        self.experiment = evaluating(experiment, min(budgets, default=None))
        self.every = math.gcd(*self.periods, self.experiment.eval_every)
        self.saves = True
        # The member is an argument: one program selects every one of them.
        self.select = jax.jit(lambda state, member: jax.tree.map(lambda leaf: leaf[member], state))
        self.began = time.perf_counter()

    def on_start(self, run: Run) -> None:
        """Begin every point: its lease, its folder, its record and its callbacks."""
        run_folders.mark_part(run.directory, self.sweep)
        try:
            self._begin_all(run)
        except BaseException:  # such as of one point's callback: each is open for an attempt of its own
            for number, owner in self.claims:
                self.ledger.finish(number, owner, "preempted", exit_code=1, reason="its program failed")
            raise

    def _begin_all(self, run: Run) -> None:
        first: tuple[RunRecord, Run] | None = None
        for index, (job, config) in enumerate(self.waiting):
            owner = folders.owner()
            point = self.ledger.claim(job.number, owner)
            if point is None:
                self.outcomes.append(Outcome(job.number, job.attempt, "ended", 0, ""))
                continue
            self.claims.append((job.number, owner))
            lease = self.stack.enter_context(Lease(self.sweep, job.number, owner, False).held())
            member = Member(index, job, config, Reporting(self.ledger, point, lease, self.watches, self.timeout), owner)
            member.reporting.last_step = run.total_steps
            first = self._begin(member, first)
            self.members.append(member)

    def _begin(self, member: Member, first: tuple[RunRecord, Run] | None) -> tuple[RunRecord, Run]:
        """Begin one point; what all have in common is made by the first of them."""
        config, directory = member.config, Path(member.job.directory)
        settled = self.settled[member.index]
        run_folders.make_directory(config.settings.run, config.name)
        self.stack.enter_context(run_folders.locked(directory))
        self.stack.enter_context(logs.run_log(directory, config.secrets))
        values = {key: value for key, value in config.values.items() if key != "distributed"}
        source = {key: value for key, value in config.source.items() if key != "distributed"}
        own = secrets.masked(
            {key: value for key, value in settled.values.items() if key != "distributed"}, config.secrets
        )
        builder = Builder(discover())
        member.callbacks = self._built(settled, builder)
        view = self._alone(config, own, builder, member.callbacks)
        member.callbacks = (*member.callbacks, *probes_of(view))
        write_config(directory, secrets.masked(as_written(source, values), config.secrets))
        if first is None:
            record = new_record(view, directory, config.name, config.secrets)
        else:
            seed = config.settings.seed
            record = replace(first[0], id=random.token_hex(8), seed=seed, config=own, directory=directory)
        record.overrides = chosen(secrets.masked_words(config.origins.words, config.secrets))
        history = MetricsFile(directory, record.id)
        history.cut(0)
        member.record = record
        record.write()
        if first is None:
            facts = run_facts(view, record, history, None)
            facts = facts._replace(graph=functools.cache(facts.graph))
        else:
            own_facts = {**first[1].facts, "directory": str(directory)}
            facts = first[1]._replace(directory=directory, id=record.id, config=own, history=history, facts=own_facts)
            facts = facts._replace(overrides=record.overrides)
        media = MediaFolder(directory, member.callbacks)
        media.cut(0)
        writer = NamedCallback("metrics.jsonl", HistoryWriter(history))
        for each in member.callbacks:
            log = functools.partial(self._log, member)
            shown = facts._replace(config=copy.deepcopy(own), media=ShownBy(media, each.label), log=log)
            notify([each], "on_start", shown)
        media.open()
        member.callbacks = (writer, *member.callbacks)
        return first or (record, facts)

    def _alone(
        self, config: Config, values: dict[str, Any], builder: Builder, callbacks: tuple[NamedCallback, ...]
    ) -> Experiment:
        """Return the experiment as that of one member, for the record and the facts of its run."""
        joint = self.experiment
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), joint.shapes)
        strategy = discover().find("strategies", str(config.values["strategy"]["name"]), "strategy.name")
        strategy.load("strategy")  # the record has a digest of the sources of imported plugins
        return joint._replace(
            config=values,
            settings=config.settings,
            members=None,
            strategy=OfOne(joint.strategy),
            shapes=shapes,
            callbacks=callbacks,
            plugins=dict(sorted({**joint.plugins, **builder.used, "strategy": strategy}.items())),
        )

    @staticmethod
    def _built(config: Config, builder: Builder) -> tuple[NamedCallback, ...]:
        """Build the callbacks of a point; the bar of the progress is that of the program."""
        found = []
        for tag, options in tagged(config.values.get("callbacks"), "callbacks").items():
            if tag != "progress":
                callback = builder.named("callbacks", options, f"callbacks.{tag}")
                label = f"callback '{tag}' ({builder.used[f'callbacks.{tag}'].owner})"
                found.append(NamedCallback(label, callback, f"callbacks.{tag}"))
        return tuple(found)

    def on_built(self, directions: Mapping[str, bool | None]) -> None:
        """Let the callbacks of the points refuse what they cannot do."""
        for config in self.settled:
            notify(self._built(config, Builder(discover())), "on_built", self.experiment.directions)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hand each point its own scalars."""
        for member in self._active():
            own = self._own(member, scalars)
            if any(tag.startswith(("train/", "eval/")) for tag in own):
                self._log(member, step, own)

    def _log(self, member: Member, step: int, own: Mapping[str, float]) -> None:
        member.scalars |= own
        member.step = step
        try:
            notify(member.callbacks, "on_log", step, dict(own))
        except StopTraining as stop:
            member.reason = member.reason or str(stop)
        if reason := member.reporting.evaluated(step, own):
            member.reason = member.reason or reason

    def _own(self, member: Member, scalars: Mapping[str, float]) -> dict[str, float]:
        """Select the scalars of a member; those of the program are shared out."""
        size = len(self.waiting)
        found: dict[str, float] = {}
        heads = {tag.rpartition("/")[0] for tag in scalars if is_of_member(tag, scalars)}
        for tag, value in scalars.items():
            head, _, tail = tag.rpartition("/")
            if is_of_member(tag, scalars):
                if int(tail) == member.index:
                    found[head] = value
            elif tag == "perf/examples_per_second":
                found[tag] = value / size
            elif tag not in heads and tag != "train/live_members":
                found[tag] = value
        return found

    def on_state(self, step: int, state: TrainState) -> None:
        """Hand each point its own state, and end those that are over."""
        reached = np.asarray(jax.device_get(state.step))
        is_last = step == self.experiment.total_steps
        active = self._active()
        for member in active:
            if reached[member.index] < step:
                at = int(reached[member.index]) + 1
                self._end(member, "failed", 6, f"train/loss is not finite at step {at}; it was frozen before", at - 1)
                continue
            due = [
                each
                for each, every in zip(member.callbacks[1:], self.periods, strict=True)
                if is_last or member.reason or self.is_cut(step) or (every > 0 and step % every == 0)
            ]
            if due:
                own = self.select(state, np.int32(member.index))
                notify(due, "on_state", step, own)
            member.step = step
            if member.reason and not is_last:
                self._finish(member)
        if active and not self._active() and not is_last:
            raise StopTraining("all of its points are over")

    def is_cut(self, step: int) -> bool:
        """Tell whether a state is shown beside all periods: it is the last one before a signal or a request."""
        return self.every == 0 or step % self.every != 0

    def settle(self, wait: bool) -> None:
        """Raise what failed in a thread of a point, and end points whose lease is lost or whose time is over."""
        for member in self._active():
            notify(member.callbacks, "settle", wait)
            try:
                member.reporting.check()
            except InterruptError as error:
                self._end(member, "failed", error.exit_code, str(error), member.step)
            except FrameworkError:  # another worker has the point, and nothing more is written
                member.is_over = True

    def on_media(self, step: int, tag: str, medium: Medium) -> None:
        """Leave the media of the program to itself."""

    def on_end(self, summary: Summary) -> None:
        """End what still runs: done at the last step, or cut before."""
        for member in self._active():
            if summary.status == "failed":
                self._end(member, "preempted", 1, "its program failed", member.step)
            elif member.step >= self.experiment.total_steps:
                self._finish(member)
            else:
                self._end(member, "preempted", 143, f"stopped at step {member.step}", member.step)

    def _active(self) -> list[Member]:
        return [member for member in self.members if not member.is_over]

    def _finish(self, member: Member) -> None:
        """End a point that is done, or that a callback or the search has ended."""
        notify(member.callbacks, "settle", True)
        verdict = member.reporting.verdict
        if verdict == "paused":
            self._end(member, "paused", 0, "", member.step)
            return
        wrong = judged(member.scalars, self.goals)
        self._end(member, "failed" if wrong else verdict or "done", 6 if wrong else 0, wrong, member.step)

    def _end(self, member: Member, state: State, code: int, reason: str, step: int) -> None:
        """Write the end of a point, in its record first: the ledger says what that says."""
        member.is_over = True
        record, is_cut = member.record, state in ("preempted", "paused")
        record.status = "stopped" if is_cut or member.reason else "failed" if state == "failed" else "done"
        record.exit_code = 143 if is_cut else code
        record.reason = reason or member.reason or None
        record.step, record.metrics = step, dict(member.scalars)
        record.seconds = round(time.perf_counter() - self.began, 3)
        status = "failed" if state == "failed" else "stopped" if record.status == "stopped" else "done"
        notify(member.callbacks, "on_end", Summary(step, member.scalars, status, record.seconds))
        record.write()
        self.ledger.note_data(member.job.number, data_digests(record.splits))
        self.ledger.finish(
            member.job.number,
            member.owner,
            state,
            step=step,
            scalars=member.scalars,
            exit_code=code,
            reason=reason,
            share=len(self.waiting),
        )
        self.outcomes.append(Outcome(member.job.number, member.job.attempt, "ended", code, reason))
