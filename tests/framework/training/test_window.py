"""Means over the steps between two logs: the same bits however the steps come, and wherever a run goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from framework.steps.metrics import Packed
from framework.training.evaluation import on_host
from framework.training.window import LogWindow

LAYOUT = (("accuracy", (), ()), ("confusion", (2, 2), ()), ("learning_rate", (), ()), ("loss", (), ()))
ROWS = np.random.default_rng(0).normal(size=(12, 11)).astype(np.float32)


def parts(rows, layout=LAYOUT):
    """A call of several steps, or several of one, as they come from the devices."""
    calls = [(Packed(rows, layout), len(rows))] if len(rows) > 3 else [(Packed(row, layout), 0) for row in rows]
    return on_host(calls)


def added(window, rows, cuts=()):
    for each in np.split(rows, cuts):
        window.add(parts(each))
    return window


@pytest.mark.parametrize("cuts", [(), (1,), (5, 6), range(1, 12)])
def test_sums_do_not_depend_on_the_cuts(cuts):
    whole, found = added(LogWindow(), ROWS).take(), added(LogWindow(), ROWS, cuts).take()
    for name in whole:
        np.testing.assert_array_equal(found[name].total, whole[name].total)
        np.testing.assert_array_equal(found[name].count, whole[name].count)
    rows = ROWS.astype(np.float64)
    np.testing.assert_allclose(whole["confusion"].total, rows[:, 2:6].sum(0).reshape(2, 2), rtol=1e-12)
    np.testing.assert_allclose(whole["loss"].total / whole["loss"].count, rows[:, 9].sum() / rows[:, 10].sum())
    assert (whole["learning_rate"].total, whole["learning_rate"].count) == (ROWS[-1, 7], ROWS[-1, 8])


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_window_goes_on_from_what_was_saved(cut):
    saved = json.loads(json.dumps(added(LogWindow(), ROWS[:cut]).saved()))
    found, whole = added(LogWindow(saved), ROWS[cut:]).take(), added(LogWindow(), ROWS).take()
    assert all(np.array_equal(found[name].total, whole[name].total) for name in whole)


def test_nothing_is_saved_right_after_a_log_and_the_last_step_is_known():
    window = added(LogWindow(), ROWS)
    assert window.last()["loss"].total == ROWS[-1, 9]
    window.take()
    assert window.saved() == LogWindow().saved() == {}


def test_sums_of_other_metrics_are_left():
    saved = added(LogWindow(), ROWS[:4]).saved()
    other = tuple((f"{name}2", *shapes) for name, *shapes in LAYOUT)
    window = LogWindow(saved)
    window.add(parts(ROWS[4:6], other))
    assert window.take()["loss2"].total == ROWS[4:6, 9].astype(np.float64).sum()


def test_updates_that_were_undone_do_not_count_unless_there_are_no_others():
    layout = (("loss", (), ()), ("skipped", (3,), ()))
    rows = np.array([[1, 1, 0, 0, 0, 1], [np.nan, 1, 1, 1, 1, 1], [3, 1, 1, 0, 0, 1]], np.float32)
    window = LogWindow()
    window.add(parts(rows, layout))
    taken = window.take()
    assert taken["loss"].total == 4 and taken["loss"].count == 2 and taken["skipped"].total[0] == 1
    window.add(parts(rows[1:2], layout))
    assert np.isnan(window.take()["loss"].total)
