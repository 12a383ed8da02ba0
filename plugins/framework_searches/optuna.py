"""Optuna as a search: its samplers choose the points, and its pruners end those that promise little."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from framework.api import Choice, Decision, Goal, Interval, Report, Search, Size, Space, Trial
from framework.errors import ConfigError

FILE = "optuna.journal"
"""Storage in the folder of the sweep, where none is chosen: `optuna-dashboard FOLDER/optuna.journal` shows it."""


def optuna(
    trials: Size = 50,
    sampler: Literal["tpe", "cmaes", "nsga2", "random"] = "tpe",
    pruner: Literal["none", "median", "halving", "hyperband"] = "none",
    warmup: int = 0,
    startup: Size = 10,
    storage: str | None = None,
) -> Search:
    """Let Optuna choose the points by the results before (Akiba et al. 2019, arXiv:1907.10902).

    The study is a copy of the ledger, made anew where a sweep goes on, so that it never disagrees with it. Its trial
    0 is point 1. With several goals the best points are those of the Pareto front.

    Args:
      trials: number of points.
      sampler: tpe models good and bad points (multivariate; points that run count as bad, so that those side by side
        differ); cmaes is for intervals, and needs the package cmaes; nsga2 is for several goals.
      pruner: median ends a trial that is worse than half of those before at the same step; halving and hyperband are
        Optuna's own, which end trials and promote none.
      warmup: updates before which no trial is pruned.
      startup: points that are drawn at random before the sampler begins, and finished before the median is taken.
      storage: URL of a database, such as sqlite:///optuna.db, or path of a journal; null for one in the sweep's folder.
        optuna-dashboard shows it.

    Raises: ConfigError if Optuna from 5, or what the sampler needs, is not installed.
    """
    try:
        library = import_module("optuna")
        if sampler == "cmaes":
            import_module("cmaes")
    except ImportError as error:
        raise ConfigError(f"Optuna cannot be imported ({error}); pip install 'framework[optuna]'.") from error
    library.logging.set_verbosity(library.logging.WARNING)
    return Optuna(library, trials, storage, sampler, startup, _pruner(library, pruner, startup, warmup))


AHEAD = 8
"""Points at once: of all at once, none would be chosen by the results of others."""


class Optuna(Search):
    """A study that is asked and told."""

    def __init__(
        self, library: Any, trials: int, storage: str | None, sampler: str, startup: int, pruner: Any | None
    ) -> None:
        self.library, self.trials, self.storage = library, trials, storage
        self.sampler, self.startup, self.pruner = sampler, startup, pruner
        self.watches, self.ahead = pruner is not None, AHEAD
        self.folder: Path | None = None

    def keep(self, folder: Path) -> None:
        """Take the sweep's folder, whose name the study gets."""
        self.folder = folder

    def begin(self, space: Space, goals: Sequence[Goal], seed: int) -> int:
        """Make the study anew.

        Raises: ConfigError if there are several goals and a pruner.
        """
        if self.pruner is not None and len(goals) > 1:
            raise ConfigError("Optuna prunes by one goal; leave the pruner out, or name one goal.", key="search.pruner")
        self.space, self.goals = space, goals
        self._distributions = dict(_distribution(self.library, dimension) for dimension in space)
        self._study = self._made(goals, seed)
        self._asked: list[Any] = []  # trials of Optuna that have no number yet
        self._trials: dict[int, Any] = {}
        self._told: set[int] = set()
        return self.trials

    def ask(self) -> Trial | None:
        """Let the sampler choose the next point."""
        if self.is_over:
            return None
        with _quiet(self.library):
            asked = self._study.ask(self._distributions)
        self._asked.append(asked)
        parameters: dict[str, Any] = {}
        for dimension in self.space:
            parameters |= _values(dimension, asked.params)
        return Trial(parameters)

    def told_number(self, trial: Trial, number: int) -> None:
        """Give the oldest trial that has none its number."""
        self._trials[number] = self._asked.pop(0)

    def tell(self, trial: Trial, report: Report) -> None:
        """Report an evaluation, or the end, to the study."""
        found, is_over = self._trials[report.number], report.number in self._told
        scores = [report.scalars.get(goal.tag, math.nan) for goal in self.goals]
        is_sound = all(map(math.isfinite, scores))
        if report.status == "running":
            if is_sound and len(scores) == 1 and not is_over:
                found.report(scores[0], report.step)
            return
        self._told.add(report.number)
        states, is_done = self.library.trial.TrialState, report.status == "done" and is_sound
        with _quiet(self.library):
            if is_over and is_done:  # it had failed, and was tried again
                same = {"params": found.params, "distributions": self._distributions}
                self._study.add_trial(self.library.trial.create_trial(**same, values=scores))
            elif is_done:
                self._study.tell(found, scores)
            elif not is_over:
                is_pruned = report.status == "pruned" and len(scores) == 1
                self._study.tell(found, state=states.PRUNED if is_pruned else states.FAIL)

    def decide(self, trial: Trial, report: Report) -> Decision:
        """Ask the pruner."""
        if self.pruner is None or report.number in self._told:
            return "continue"
        return "prune" if self._trials[report.number].should_prune() else "continue"

    @property
    def is_over(self) -> bool:
        """Tell if all points were asked for."""
        return len(self._asked) + len(self._trials) >= self.trials

    def _made(self, goals: Sequence[Goal], seed: int) -> Any:
        name = "framework" if self.folder is None else self.folder.name
        storage = _storage(self.storage, self.folder)
        with _quiet(self.library):
            known = [] if storage is None else self.library.get_all_study_names(storage)
            if name in known:
                self.library.delete_study(study_name=name, storage=storage)
            study = self.library.create_study(
                storage=storage,
                sampler=_sampler(self.library, self.sampler, self.startup, seed),
                pruner=self.pruner or self.library.pruners.NopPruner(),
                study_name=name,
                directions=["maximize" if goal.is_high_good else "minimize" for goal in goals],
            )
            study.set_metric_names([goal.tag for goal in goals])
        return study


def _sampler(library: Any, name: str, startup: int, seed: int) -> Any:
    samplers = library.samplers
    if name == "tpe":
        return samplers.TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)
    if name == "cmaes":
        return samplers.CmaEsSampler(n_startup_trials=startup, seed=seed, warn_independent_sampling=False)
    if name == "nsga2":
        return samplers.NSGAIISampler(population_size=max(startup, 2), seed=seed)
    return samplers.RandomSampler(seed=seed)


def _pruner(library: Any, name: str, startup: int, warmup: int) -> Any | None:
    pruners = library.pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=max(warmup, 1))
    return pruners.HyperbandPruner(min_resource=max(warmup, 1)) if name == "hyperband" else None


def _storage(chosen: str | None, folder: Path | None) -> Any | None:
    """Open a storage: a database by its URL, a journal by its path; None for the memory."""
    if chosen is None and folder is None:
        return None
    if chosen is not None and "://" in chosen:
        # Without a pool, so that no connection outlives its transaction.
        pooling = {"poolclass": import_module("sqlalchemy.pool").NullPool}
        return import_module("optuna.storages").RDBStorage(chosen, engine_kwargs=pooling)
    path = Path(chosen) if chosen is not None else Path(folder or "") / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = import_module("optuna.storages.journal").JournalFileBackend(str(path))
    return import_module("optuna.storages").JournalStorage(backend)


def _distribution(library: Any, dimension: Choice | Interval) -> tuple[str, Any]:
    """Return the name and the distribution of a dimension."""
    kinds = library.distributions
    if isinstance(dimension, Choice):
        return ", ".join(dimension.keys), kinds.CategoricalDistribution(_labels(dimension))
    if dimension.integer:
        return dimension.key, kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return dimension.key, kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _labels(choice: Choice) -> list[Any]:
    """Return what stands for each value: itself, or a text where Optuna cannot hold it."""
    plain = all(len(values) == 1 and isinstance(values[0], bool | int | float | str | None) for values in choice.values)
    return [values[0] if plain else json.dumps(values) for values in choice.values]


def _values(dimension: Choice | Interval, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the keys of a dimension, as the point has them."""
    if isinstance(dimension, Interval):
        return {dimension.key: params[dimension.key]}
    chosen = dimension.values[_labels(dimension).index(params[", ".join(dimension.keys)])]
    return dict(zip(dimension.keys, chosen, strict=True))


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep Optuna's remarks on experimental functions from the user, who cannot act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
        yield
