"""Searches as state machines: their points, their decisions, and how they are restored from what they were told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import qmc

from framework.api import Choice, Goal, Interval, Report, Trial
from framework.errors import ConfigError
from framework.testing import message
from framework_searches.halving import halving
from framework_searches.listed import grid, random, sobol
from framework_searches.points import spread, value_at

RATE = Interval("optimizer.learning_rate", 1e-4, 1e-1, log=True)
SHARE = Interval("model.dropout", 0.0, 0.5)
WIDTH = Interval("model.width", 2, 5, integer=True)
DEPTH = Interval("model.depth", 1, 1000, log=True, integer=True)
PAIR = Choice(("seed", "model"), ((0, "mlp"), (1, "cnn"), (2, "mlp")))
SPACE = (RATE, SHARE, WIDTH, DEPTH, PAIR)
LOSS = Goal("eval/loss")
END = 9 * 40
"""Updates of a whole run in the driver below, which evaluates every 20."""


class Driver:
    """Drives a search as a sweep does, with runs whose score is a function of (parameters, step).

    Its history holds ("ask", number, trial) and ("tell", number, report, decision).
    """

    def __init__(self, search, score, slots=1, space=SPACE, goals=(LOSS,), seed=3):
        self.search, self.score, self.slots, self.goals = search, score, slots, goals
        self.events, self.trials, self.running, self.steps = [], {}, [], {}
        search.begin(space, goals, seed)

    def restore(self, events):
        for event in events:
            if event[0] == "ask":
                assert self.ask() and self.events[-1] == event
            else:
                self.tell(event[1], event[2])
                assert self.events[-1] == event

    def ask(self):
        if (trial := self.search.ask()) is None:
            return False
        number = len(self.trials) if trial.goes_on_from is None else trial.goes_on_from
        if trial.goes_on_from is None:
            self.search.told_number(trial, number)
        self.trials[number] = trial
        self.running.append(number)
        self.events.append(("ask", number, trial))
        return True

    def tell(self, number, report):
        trial = self.trials[number]
        self.search.tell(trial, report)
        self.running.remove(number)
        self.steps[number], decision = report.step, None
        if report.status == "running":
            self.running.append(number)
            decision = self.search.decide(trial, report)
        self.events.append(("tell", number, report, decision))
        return decision

    def evaluate(self):
        number = self.running[0]
        step = self.steps.get(number, 0) + 20
        values = np.atleast_1d(self.score(self.trials[number].parameters, step))
        found = {goal.tag: float(value) for goal, value in zip(self.goals, values, strict=True) if math.isfinite(value)}
        decision = self.tell(number, Report(number, step, found))
        status = {"pause": "paused", "prune": "pruned"}.get(decision, "done" if step == END else None)
        if status is not None:
            self.tell(number, Report(number, step, found, status))


def run(search, score, events=(), stop=math.inf, **options):
    """Drive a search to its end.

    Args:
      events: a history to restore it from, before it goes on.
      stop: number of events after which the driver is killed.

    Returns: the history.
    """
    driver = Driver(search, score, **options)
    driver.restore(events)
    while len(driver.events) < stop:
        while len(driver.running) < driver.slots and driver.ask():
            pass
        if not driver.running:
            assert search.is_over
            break
        driver.evaluate()
    return driver.events


def asked(events):
    """The parameters of all new trials, in order."""
    return [event[2].parameters for event in events if event[0] == "ask" and event[2].goes_on_from is None]


def hills(parameters, step):
    """A loss that falls with the steps, and is lowest at a rate of 1e-2."""
    return abs(math.log10(parameters["optimizer.learning_rate"]) + 2) + 1 / step


@pytest.mark.parametrize("unit", [0.0, 0.3, 0.5, 0.999999])
@pytest.mark.parametrize("dimension", SPACE, ids=lambda dimension: str(dimension[0]))
def test_a_number_of_the_unit_interval_is_a_value_of_the_dimension(dimension, unit):
    values = value_at(dimension, unit)
    if isinstance(dimension, Choice):
        assert tuple(values.values()) in dimension.values
        return
    (value,) = values.values()
    assert dimension.low <= value <= dimension.high
    assert isinstance(value, int if dimension.integer else float)
    ends = np.log([dimension.low, dimension.high]) if dimension.log else np.array([dimension.low, dimension.high])
    place = (math.log(value) if dimension.log else value) - ends[0]
    if not dimension.integer:
        assert place / (ends[1] - ends[0]) == pytest.approx(unit, abs=1e-5)


def test_all_values_of_choices_and_whole_numbers_are_equally_likely():
    units = (np.arange(1200) + 0.5) / 1200
    for dimension, values in ((WIDTH, [2, 3, 4, 5]), (PAIR, [0, 1, 2])):
        drawn = [next(iter(value_at(dimension, unit).values())) for unit in units]
        assert [drawn.count(value) for value in values] == [1200 // len(values)] * len(values)


def test_a_grid_is_the_product_and_spreads_points_over_intervals():
    space = (Choice(("a",), ((1,), (2,))), Choice(("b", "c"), ((1, "x"), (2, "y"))))
    assert asked(run(grid(), lambda *_: 1.0, space=space)) == [
        {"a": 1, "b": 1, "c": "x"}, {"a": 1, "b": 2, "c": "y"}, {"a": 2, "b": 1, "c": "x"}, {"a": 2, "b": 2, "c": "y"},
    ]  # fmt: skip
    columns = [[next(iter(values.values())) for values in spread(dimension, 4)] for dimension in SPACE[:4]]
    assert columns == [[1e-4, 1e-3, 1e-2, 1e-1], [0.0, 0.166667, 0.333333, 0.5], [2, 3, 4, 5], [1, 10, 100, 1000]]
    with pytest.raises(ConfigError) as caught:
        grid().begin(SPACE, [LOSS], 0)
    assert "optimizer.learning_rate: an interval has no single values" in message(caught)


@pytest.mark.parametrize("make", [random, sobol])
def test_more_trials_and_other_orders_leave_the_first_points_as_they_are(make):
    few, many = (asked(run(make(trials=trials), hills, slots=trials)) for trials in (5, 13))
    assert many[:5] == few
    assert len({repr(point) for point in many}) == 13
    assert asked(run(make(trials=5), hills, seed=4)) != few


@pytest.mark.parametrize("make", [random, sobol])
def test_a_point_that_is_drawn_again_is_left_out(make):
    drawn = asked(run(make(trials=32), lambda *_: 1.0, space=(PAIR,)))
    assert len(drawn) == len(PAIR.values) == len({repr(point) for point in drawn})
    assert asked(run(make(trials=1), lambda *_: 1.0, space=(PAIR,))) == drawn[:1]


def test_a_sobol_sequence_is_that_of_scipy_but_for_a_shift_of_digits():
    space = [Interval(name, 0.0, 1.0) for name in "abc"]
    found = np.array([list(point.values()) for point in asked(run(sobol(trials=64), lambda *_: 1.0, space=space))])
    plain = qmc.Sobol(3, scramble=False).random_base2(6)
    digits = (found * 64).astype(int) ^ (plain * 64).astype(int)  # 64 points fill 64 cells of each axis once
    assert (digits == digits[0]).all()
    assert qmc.discrepancy(found) < qmc.discrepancy(np.random.default_rng(0).random([64, 3])) / 4


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("high", [False, True])
def test_halving_promotes_the_best_of_each_stage_and_makes_no_step_twice(slots, high):
    goal, sign = Goal("eval/accuracy", high), -1 if high else 1
    search = halving(first=40, stages=3, factor=3, trials=27)
    events = run(search, lambda point, step: sign * hills(point, step), slots=slots, goals=(goal,))
    points, reached = asked(events), {}
    for event in events:
        if event[0] == "tell":
            reached[event[1]] = event[2].step
    best = min(range(27), key=lambda number: hills(points[number], END))
    assert reached[best] == END
    counts = [sum(step >= stage for step in reached.values()) for stage in (40, 120, END)]
    assert counts[0] == 27 and 9 <= counts[1] <= 9 + slots and 3 <= counts[2] <= 3 + slots
    assert sum(reached.values()) <= 0.4 * 27 * END
    steps = [(event[1], event[2].step) for event in events if event[0] == "tell" and event[2].status == "running"]
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize("trials", [1, 2, 4, 8])
def test_one_point_of_halving_comes_to_its_end_however_few_there_are(trials):
    events = run(halving(first=40, trials=trials), hills)
    assert sum(event[0] == "tell" and event[2].status == "done" for event in events) >= 1


def test_halving_leaves_failed_points_behind_and_takes_them_back_when_they_are_tried_again():
    search = halving(first=40, stages=2, trials=3)
    search.begin(SPACE, [LOSS], 0)
    trials = [search.ask() for _ in range(3)]
    for number, trial in enumerate(trials):
        search.told_number(trial, number)
    search.tell(trials[0], Report(0, 20, {}, "failed"))
    search.tell(trials[1], Report(1, 40, {"eval/loss": 2.0}, "paused"))
    assert search.ask() is None and not search.is_over
    search.tell(trials[0], Report(0, 40, {"eval/loss": 1.0}, "running"))
    search.tell(trials[0], Report(0, 40, {"eval/loss": 1.0}, "paused"))
    search.tell(trials[2], Report(2, 40, {}, "paused"))  # its loss was not finite
    assert search.ask() == Trial(trials[0].parameters, None, goes_on_from=0)
    search.tell(trials[0], Report(0, END, {"eval/loss": 1.0}, "done"))
    assert search.ask() is None and search.is_over


def optuna(**options):
    pytest.importorskip("optuna", reason="a search by Optuna needs it")
    from framework_searches.optuna import optuna as make

    return make(**options)


MADE = {
    "grid": lambda: grid(points=2),
    "random": lambda: random(trials=12),
    "sobol": lambda: sobol(trials=12),
    "halving": lambda: halving(first=40, trials=12),
    "tpe": lambda: optuna(trials=14, startup=4, pruner="median"),
    "cmaes": lambda: optuna(trials=12, startup=3, sampler="cmaes"),
    "nsga2": lambda: optuna(trials=12, startup=4, sampler="nsga2"),
    "hyperband": lambda: optuna(trials=10, startup=4, pruner="hyperband", warmup=40),
}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("name", MADE)
def test_a_search_restored_from_its_history_goes_on_as_one_that_was_not_interrupted(name, slots):
    goals = (LOSS, Goal("eval/seconds")) if name == "nsga2" else (LOSS,)

    def score(point, step):
        return (hills(point, step), point["model.width"]) if name == "nsga2" else hills(point, step)

    whole = run(MADE[name](), score, slots=slots, goals=goals)
    for stop in {1, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
        events = run(MADE[name](), score, slots=slots, goals=goals, stop=stop)
        assert run(MADE[name](), score, slots=slots, goals=goals, events=events) == whole


def test_tpe_looks_where_results_were_good_and_its_pruner_ends_what_promises_little():
    events = run(optuna(trials=40, pruner="median", startup=8), hills, space=[RATE, SHARE])
    drawn = asked(run(random(trials=40), hills, space=[RATE, SHARE]))
    last, first = ([hills(point, END) for point in points] for points in (asked(events)[20:], drawn))
    assert np.median(last) < np.median(first) / 2
    ends = [event[2] for event in events if event[0] == "tell" and event[2].status in ("done", "pruned")]
    assert len(ends) == 40 and 10 < sum(end.status == "pruned" for end in ends) < 35
    assert sum(end.step for end in ends) < 0.7 * 40 * END


def test_the_study_in_the_folder_of_a_sweep_is_a_copy_of_its_history(tmp_path):
    package = pytest.importorskip("optuna", reason="a search by Optuna needs it")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder, events = tmp_path / "20260101-120000-ab12", []
    for _ in range(2):  # the second time, it is restored from the whole history
        search = optuna(trials=8, startup=3, pruner="median")
        search.keep(folder)
        events = run(search, lambda point, step: math.nan if point["seed"] == 1 else hills(point, step), events=events)
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    assert package.get_all_study_names(storage) == [folder.name]
    trials = package.load_study(study_name=folder.name, storage=storage).trials
    ends = [event[2] for event in events if event[0] == "tell" and event[2].status != "running"]
    assert [trial.state.name for trial in trials] == [
        "FAIL" if not end.scalars else {"done": "COMPLETE", "pruned": "PRUNED"}[end.status]
        for end in sorted(ends, key=lambda end: end.number)
    ]
    assert {"FAIL", "COMPLETE"} <= {trial.state.name for trial in trials}
    for trial, point in zip(trials, asked(events), strict=True):
        assert trial.params["optimizer.learning_rate"] == point["optimizer.learning_rate"]
        assert trial.params["seed, model"] == f'[{point["seed"]}, "{point["model"]}"]'


def test_a_trial_of_optuna_that_was_tried_again_counts_by_its_second_end(tmp_path):
    search = optuna(trials=2, storage=f"sqlite:///{tmp_path}/study.db")
    search.keep(tmp_path / "mine")
    search.begin([RATE], [LOSS], 0)
    search.told_number(trial := search.ask(), 0)
    search.tell(trial, Report(0, 20, {}, "failed"))
    search.tell(trial, Report(0, END, {"eval/loss": 0.5}, "done"))
    package, pool = pytest.importorskip("optuna"), pytest.importorskip("sqlalchemy.pool")
    url = f"sqlite:///{tmp_path}/study.db"
    storage = package.storages.RDBStorage(url, engine_kwargs={"poolclass": pool.NullPool})  # it closes what it opens
    study = package.load_study(study_name="mine", storage=storage)
    assert study.best_value == 0.5 and study.best_params == trial.parameters


@pytest.mark.parametrize(
    ("begin", "text"),
    [
        (lambda: grid(points=1), "points: expected at least 2"),
        (lambda: halving(first=10, factor=1), "factor: expected at least 2"),
        (
            lambda: halving(first=10, sampler="grid").begin([RATE], [LOSS], 0),
            "learning_rate: an interval has no single",
        ),
        (lambda: optuna(pruner="median").begin([RATE], [LOSS, LOSS], 0), "search.pruner: Optuna prunes by one goal"),
    ],
)
def test_what_cannot_be_searched_is_refused(begin, text):
    with pytest.raises(ConfigError) as caught:
        begin()
    assert text in message(caught)
