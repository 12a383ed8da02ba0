"""Searches that drive real sweeps: pauses and promotions, kills, the study of Optuna, and a population."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import framework
from framework import testing
from framework.errors import StorageError
from framework.sweeps.folder import ledger_of
from framework.sweeps.ledger import Ledger

WORDS = [*testing.TINY, "callbacks=[checkpoint]", "train.steps=18", "launcher=turn", "optimizer=sgd"]
RATE = "optimizer.learning_rate=tag(log,interval(1e-3,1e1))"
HALVING = ["search=halving", "search.first=2", "search.trials=5", "train.eval_every=2", RATE]


def sweep(folder, *words):
    done = testing.command("-m", *WORDS, f"sweep.dir={folder}", *words)
    assert done.code == 0, done.err
    return history(folder)


def history(folder):
    """Questions, reports and decisions in order, without values that were measured in seconds."""
    with Ledger(ledger_of(folder)) as ledger:
        return [
            (event.kind, event.number, event.decision, event.content.get("step"), losses(event.content))
            for event in ledger.events()
        ]


def losses(content):
    return {tag: value for tag, value in content.get("scalars", {}).items() if tag.startswith("eval/")}


def begun(folder):
    """The history so far, of a sweep that may have no ledger yet."""
    try:
        return history(folder)
    except StorageError:
        return []


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    return folder, sweep(folder, *HALVING)


def test_a_promoted_point_is_bit_equal_to_its_run_alone(halved, tmp_path):
    folder, events = halved
    steps = [(kind, number, step) for kind, number, _, step, _ in events if kind in ("paused", "done")]
    assert [step for kind, _, step in steps if kind == "paused"].count(2) == 5
    ((_, best, _),) = [each for each in steps if each[0] == "done"]
    assert [step for _, number, step in steps if number == best] == [2, 6, 18]
    with Ledger(ledger_of(folder)) as ledger:
        point = ledger.point(best)
    alone = framework.run([*point.words, f"run.dir={tmp_path}/alone"])
    promoted = framework.load(folder / point.directory)
    testing.assert_same_bits(promoted.params, alone.model.params)
    own = [record for record in testing.records(folder / point.directory) if record["step"] in (16, 18)]
    assert own == [record for record in testing.records(alone) if record["step"] in (16, 18)]


def test_points_of_one_program_are_paused_and_go_on_as_those_trained_in_turn(halved, tmp_path):
    """They are evaluated where the search wants it, though not by themselves."""
    together = sweep(tmp_path / "together", *HALVING, "launcher=vmapped", "train.eval_every=0")
    ends = [
        {event[1:4:2]: event[4] for event in events if event[0] in ("paused", "done")}
        for events in (together, halved[1])
    ]
    assert ends[0].keys() == ends[1].keys()
    for point, values in ends[0].items():
        assert values == pytest.approx(ends[1][point], rel=1e-4)
    assert len(list((tmp_path / "together" / "groups").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("events", [4, 13])
def test_a_search_that_was_killed_goes_on_with_the_same_decisions(halved, tmp_path, events):
    folder, whole = tmp_path / "killed", halved[1]
    command = [sys.executable, "-m", "framework", "-m", *WORDS, *HALVING, f"sweep.dir={folder}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and len(begun(folder)) < events:
                time.sleep(0.05)
        finally:
            process.kill()
    seen = history(folder)
    assert seen == whole[: len(seen)] and len(seen) < len(whole)
    assert sweep(folder, *HALVING) == whole


def test_optuna_prunes_and_keeps_a_study_in_the_folder_of_the_sweep(tmp_path):
    optuna = pytest.importorskip("optuna", reason="a search by Optuna needs it")
    words = ["search=optuna", "search.trials=5", "search.startup=2", "search.pruner=median", "train.eval_every=6", RATE]
    events = sweep(tmp_path / "study", *words)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study" / "optuna.journal"))
    )
    trials = optuna.load_study(study_name="study", storage=storage).trials
    ends = {number: (kind, scalars) for kind, number, _, _, scalars in events if kind in ("done", "pruned")}
    assert [trial.state.name for trial in trials] == [
        {"done": "COMPLETE", "pruned": "PRUNED"}[ends[number][0]] for number in range(1, 6)
    ]
    assert [trial.value for trial in trials] == [ends[number][1]["eval/loss"] for number in range(1, 6)]
    assert any(kind == "pruned" for kind, _ in ends.values())


def test_a_population_is_one_point(tmp_path):
    events = sweep(tmp_path / "sweep", "search=pbt", "search.members=4", "search.every=6", RATE)
    assert list(dict.fromkeys(event[0] for event in events)) == ["ask", "running", "done"]
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        (point,) = ledger.points()
    assert point.parameters == {"strategy": "pbt"}
    rows = testing.run_record(tmp_path / "sweep" / point.directory)["members"]
    assert len({row["values"]["optimizer.learning_rate"] for row in rows}) == 4
