"""Numbers that the examples leave without a value are NaN, and told once, with the tag, the split and the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest

from framework.testing import run_record, series
from framework_losses.metrics import area, f1
from framework_losses.regression import r2
from tests.truth.runs import save, train

SHORT = ["data=arrays", "model=mlp", "model.hidden=[4]", "train.steps=8", "train.eval_every=4", "train.log_every=1"]
SHORT += ["data.batch_size=1", "data.eval_batch_size=4", "metrics=[accuracy,auc]", "model.classes=2"]

WAYS = {"alone": [], "members": ["strategy=vmapped", "strategy.members=2"]}


@pytest.fixture(scope="module", params=WAYS)
def run(request, tmp_path_factory):
    """A run whose test split has one class, and of whose training examples each second one weighs nothing."""
    folder, inputs = tmp_path_factory.mktemp("runs"), np.random.default_rng(0).normal(size=(8, 3))
    targets, weights = np.arange(8) % 2, np.arange(8) // 4
    fields = "data.fields={inputs: inputs, targets: targets, weights: weights}"
    files = [
        f"data.train={save(folder, 'train', inputs=inputs, targets=targets, weights=weights)}",
        f"data.test={save(folder, 'test', inputs=inputs, targets=np.ones(8, int), weights=np.ones(8, int))}",
    ]
    return request.param, train(folder / "run", *SHORT, *files, fields, *WAYS[request.param])


def told(result, text):
    return [line for line in (result.directory / "run.log").read_text().splitlines() if text in line]


def test_a_metric_that_one_class_leaves_without_a_value_says_so_once(run):
    way, result = run
    (line,) = told(result, "of the split 'test'")
    tags = "eval/auc is" if way == "alone" else "eval/auc, eval/auc/0, eval/auc/1 are"
    assert line.endswith(f"step 0 of the split 'test': {tags} nan: all labels are 1, and it compares 1 with 0.")
    assert np.isnan(series(result.directory, "eval/auc")).all()
    assert np.isfinite(series(result.directory, "eval/loss")).all()


def test_a_step_without_weight_is_told_once_and_learns_nothing(run):
    way, result = run
    first = told(result, "nan: all weights of the examples are 0.")[0]
    tags = first.partition("step")[2].partition(": ")[2].partition(" nan")[0]
    assert tags == "train/accuracy, train/loss are" if way == "alone" else "train/loss" in tags
    nans = np.isnan(series(result.directory, "train/loss"))
    assert nans.sum() == 4 if way == "alone" else nans.any() and not nans.all()
    assert run_record(result.directory)["status"] == "done"
    assert len(told(result, "all weights")) == 1 if way == "alone" else len(told(result, "all weights")) <= 3
    assert not told(result, "not finite")


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (area(np.zeros(2), np.zeros(2), np.ones(2)), "all labels are 0, and it compares 1 with 0"),
        (area(np.zeros(0), np.zeros(0), np.ones(0)), "no example counts"),
        (area(np.array([np.nan, 1]), np.arange(2), np.ones(2)), "a score is not a number"),
        (f1(targets="binary").result(np.zeros((1, 3)), 4.0), "no label occurs among targets or predictions"),
        (r2().result(np.ones((1, 1, 3)), np.ones(1)), "fewer than two targets count, and these have no variance"),
    ],
)
def test_each_says_why(number, why):
    assert math.isnan(number)
    assert number.why == why
