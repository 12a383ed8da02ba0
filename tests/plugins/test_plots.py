"""A sweep is drawn as it is: its settings, axes, importances and Pareto front."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from scipy import stats

import framework
from framework import testing
from framework.contracts.search import Goal
from framework.sweeps.results import Row, front_of, spread_of
from framework_runs.drawn import axis, sweep_of
from framework_runs.importances import importances
from framework_runs.naming import points
from framework_runs.palette import colours
from framework_runs.reading import find

RATE = "optimizer.learning_rate"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two metrics: three rates over two decades, with two seeds each."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    words = [*testing.TINY, "train.steps=4", "train.eval_every=2", "callbacks=[checkpoint]", "launcher=turn"]
    goals = "sweep.metric=[eval/loss,eval/accuracy]"
    table = framework.sweep([*words, "seed=0,1", f"{RATE}=1e-3,1e-2,1e-1", goals, f"sweep.dir={folder}"])
    return folder, table


def test_a_sweep_of_several_goals_marks_its_front(swept):
    folder, table = swept
    assert [goal.is_high_good for goal in table.goals] == [False, True] and table.front
    text = testing.command("sweep", "table", str(folder)).out
    assert "front" in text.splitlines()[0].split() and "Pareto front (*)" in text
    assert text.count("*") == len(table.front) + 1
    records = json.loads(testing.command("sweep", "table", str(folder), "--json").out)
    assert [row["front"] for row in records["rows"]] == [row in table.front for row in table.rows]
    assert [goal["tag"] for goal in records["goals"]] == ["eval/loss", "eval/accuracy"]


@pytest.mark.parametrize("ending", ["svg", "png", "html"])
def test_a_sweep_is_drawn(swept, tmp_path, ending):
    folder, table = swept
    path = tmp_path / f"plots.{ending}"
    done = testing.command("plot", str(folder), "--out", str(path), "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["kinds"] == ["curves", "parallel", "slices", "importances", "front"]
    assert told["bytes"] == path.stat().st_size < 2e6 and set(told["importances"]["eval/loss"]) == {RATE, "seed"}
    if ending == "png":
        assert path.read_bytes().startswith(b"\x89PNG")
        return
    content = path.read_text()
    for text in ("eval/loss by step", "eval/accuracy by learning_rate", "Pareto front", "learning_rate=0.001"):
        assert text in content
    own = colours([each.key for each in points(find([folder])[0])])
    for colour in own.values():  # those that compare and report give the same runs
        assert colour.value.lower() in content
    if ending == "html":
        assert not re.search(r"(src|href)=.http", content) and table.text() in content.replace("&#x27;", "'")


def test_what_cannot_be_drawn_is_refused(swept, tmp_path):
    folder, _ = swept
    for words, says in (
        ([str(folder), "--kind", "slice"], "no chart is called 'slice'"),
        ([str(folder), "--out", "plots.pdf"], "ends with .png, .svg or .html"),
        ([str(tmp_path)], "is not a sweep"),
    ):
        done = testing.command("plot", *words)
        assert done.code and says in done.err and len(done.err.splitlines()) == 1


def test_settings_have_their_parameters_and_points(swept):
    sweep = sweep_of(swept[0])
    (rate,) = sweep.parameters
    assert (rate.name, rate.is_log, [*rate.values]) == ("learning_rate", True, [1e-3, 1e-2, 1e-1])
    assert [rate.share(value) for value in rate.values] == pytest.approx([0, 0.5, 1])
    losses = [setting.mean("eval/loss") for setting in sweep.settings]
    assert losses == sorted(losses) and all(len(setting.points) == 2 for setting in sweep.settings)


def test_axes_fit_their_values():
    assert axis("a", [64, 128, 256]).is_log is False
    assert axis("a", [0.1, 0.2], is_log=True).is_log is True
    assert axis("a", [0, 1000]).is_log is False
    names = axis("a", ["relu", "tanh", "relu"])
    assert (names.is_number, [*names.values], names.at("tanh")) == (False, ["relu", "tanh"], 1.0)
    assert axis("a", [True, False]).is_number is False


def test_importances_are_those_of_the_test_of_kruskal_and_wallis():
    generator = np.random.default_rng(0)
    points = [{"rate": rate, "seed": seed, "same": 1} for rate in (1, 2, 3) for seed in range(5)]
    values = [each["rate"] + generator.normal() for each in points]
    found = importances(points, values)
    statistic = stats.kruskal(*([v for p, v in zip(points, values, strict=True) if p["rate"] == k] for k in (1, 2, 3)))
    assert found["rate"] == pytest.approx((statistic.statistic - 2) / (15 - 3))
    assert list(found) == ["rate", "seed"]
    assert importances(points, [*values[:-1], 1e30]) == importances(points, [*values[:-1], max(values) + 1])


def test_importances_of_many_values_are_those_of_quantiles():
    generator = np.random.default_rng(0)
    points = [{"a": float(a), "b": float(b), "id": f"n{k}"} for k, (a, b) in enumerate(generator.random((64, 2)))]
    found = importances(points, [each["a"] ** 2 for each in points])
    assert found["a"] > 0.9 and found["b"] < 0.2 and math.isnan(found["id"])
    assert [*found] == ["a", "b", "id"]


def test_the_front_holds_what_nothing_excels():
    goals = [Goal("loss"), Goal("accuracy", True)]
    values = [(1.0, 0.5), (2.0, 0.9), (2.0, 0.8), (3.0, 0.9), (1.0, 0.5)]
    rows = [
        Row({"k": k}, (k,), 1, {"loss": spread_of([loss]), "accuracy": spread_of([accuracy])}, 0.0, {"done": 1})
        for k, (loss, accuracy) in enumerate(values)
    ]
    assert [row.setting["k"] for row in front_of(rows, goals)] == [0, 1, 4]
    lacking = Row({"k": 5}, (5,), 0, {}, 0.0, {"failed": 1})
    assert front_of([*rows, lacking], goals[:1]) == (rows[0], rows[4])
