"""Runs that TensorBoard tells apart: names, members, hyper-parameters and curves; and the verb `board`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

import framework
from framework import testing
from framework.api import Run
from framework.records.history import MetricsFile
from framework_tensorboard.board import Names
from framework_tensorboard.constant import Varying
from framework_tensorboard.names import names_of, point_of
from framework_tensorboard.seeds import Means
from tests.plugins.test_tensorboard import ask, patiently

WORDS = ["train.steps=8", "train.log_every=2", "train.eval_every=4", "callbacks=[tensorboard]"]
SWEEP = ["strategy=vmapped", "strategy.members={seed: 0-1, optimizer.learning_rate: [1e-3, 1e-2]}"]


def run_of(overrides, members=()):
    facts = (Path(), "mnist", {}, 0, 1, 1, 1, (), {})
    return Run(*facts, overrides=overrides, members=tuple(members))


NAMES = [
    ({}, "mnist", ""),
    ({"experiment": "mnist"}, "mnist", ""),
    ({"seed": "2"}, "mnist seed=2", ""),
    ({"seed": "2", "optimizer.learning_rate": "0.003"}, "mnist seed=2 lr=0.003", "mnist lr=0.003"),
    ({"model": "mlp", "model.hidden": "[8, 4]", "metrics+": "auc"}, "mnist model=mlp hidden=8,4 metrics+=auc", ""),
    ({"optimizer.b1": "0.8", "loss.b1": "1"}, "mnist optimizer.b1=0.8 loss.b1=1", ""),
    ({"run.dir": "/a", "callbacks": "[]", "debug.nans": "true", "probes.norms.every": "1"}, "mnist", ""),
    ({"data.path": "/a/b c/d*.npz"}, "mnist path=d_.npz", ""),
    ({f"model.option{k}": "1" * 30 for k in range(9)}, None, ""),
]


@pytest.mark.parametrize(("overrides", "name", "point"), NAMES)
def test_a_run_has_the_name_of_what_was_chosen(overrides, name, point):
    found = names_of(run_of(overrides))[0]
    assert found == name or (name is None and len(found) <= 100 and found.startswith("mnist … option"))
    assert point_of(run_of(overrides), {}) == point


def test_members_are_told_apart_by_what_differs():
    members = [{"seed": 0, "optimizer.learning_rate": 0.001}, {"seed": 0, "optimizer.learning_rate": 0.01}]
    chosen = {"strategy": "vmapped", "strategy.members": "{…}", "train.steps": "8"}
    name, names = names_of(run_of(chosen, members))
    assert (name, names) == ("mnist steps=8 mean of 2", ["mnist steps=8 lr=0.001", "mnist steps=8 lr=0.01"])
    alike = [{"seed": 1}, {"seed": 1}]
    assert names_of(run_of({}, alike))[1] == ["mnist seed=1 member=0", "mnist seed=1 member=1"]
    assert point_of(run_of({"optimizer.b1": "0.8"}, alike), alike[0]) == "mnist b1=0.8"


def test_constant_curves_are_held_back_until_they_change():
    varying = Varying({"rate"})
    assert [varying.points(step, {"loss": 1.0, "rate": 0.5}) for step in (1, 2, 3)] == [
        {step: {"loss": 1.0}} for step in (1, 2, 3)
    ]
    assert varying.points(4, {"rate": 0.25}) == {1: {"rate": 0.5}, 3: {"rate": 0.5}, 4: {"rate": 0.25}}
    assert varying.points(5, {"rate": 0.25}) == {5: {"rate": 0.25}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a sweep as one population, a run that went on, and one that failed, by name."""
    root = tmp_path_factory.mktemp("runs")
    part = testing.train(
        root, *WORDS, "train.steps=4", "callbacks=[tensorboard,checkpoint]", "seed=3", "schedule=cosine"
    )
    framework.resume(part.directory, ["train.steps=8"])
    with pytest.raises(framework.errors.NumericalError):
        testing.train(root, *WORDS, "optimizer=sgd", "optimizer.learning_rate=1e30")
    return {"sweep": testing.train(root, *WORDS, *SWEEP).directory, "went on": part.directory, "root": root}


def curves(folder):
    """Points by tag and run."""
    found = {}
    for place in {path.parent for path in folder.glob("*/events.*")}:
        accumulator = EventAccumulator(str(place), size_guidance={"tensors": 0}).Reload()
        tags = [tag for tag in accumulator.Tags()["tensors"] if tag.startswith(("train/", "eval/", "~"))]
        found[place.name.partition("hidden=8 ")[2]] = {
            tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto).item()) for e in accumulator.Tensors(tag)]
            for tag in tags
        }
    return found


def test_each_member_has_the_curves_of_a_run_of_its_own(runs):
    found, logged = curves(runs["sweep"]), testing.records(runs["sweep"])
    members = ["steps=8 seed=0 lr=0.001", "steps=8 seed=1 lr=0.01"]
    assert set(found) == {*members, "steps=8 mean of 2"}
    for member, name in enumerate(members):
        assert set(found[name]) == {"train/loss", "train/accuracy", "eval/loss", "eval/accuracy"}
        for tag, points in found[name].items():
            expected = [(each["step"], each[f"{tag}/{member}"]) for each in logged if f"{tag}/{member}" in each]
            assert [step for step, _ in points] == [step for step, _ in expected]
            assert [value for _, value in points] == pytest.approx([value for _, value in expected])
    whole = found["steps=8 mean of 2"]
    assert "train/live_members" not in whole and "train/learning_rate" not in whole
    for tag in ("train/loss", "eval/loss"):
        columns = (found[members[0]][tag], found[members[1]][tag], whole[f"{tag}/lowest"], whole[f"{tag}/highest"])
        for (_, one), (_, other), (_, lowest), (_, highest) in zip(*columns, strict=True):
            assert [lowest, highest] == sorted([one, other])


def test_a_run_that_goes_on_keeps_its_name_and_the_points_of_its_rate(runs):
    ((name, found),) = curves(runs["went on"]).items()
    assert name == "steps=4 seed=3 schedule=cosine"
    logged = testing.records(runs["went on"])
    assert [step for step, _ in found["train/learning_rate"]] == [each["step"] for each in logged][1:], (
        "none before the first step"
    )


def hparams(folder):
    found = {}
    for place in {path.parent for path in folder.glob("*/*/*/events.*")}:
        accumulator = EventAccumulator(str(place)).Reload()
        if metadata.SESSION_START_INFO_TAG in accumulator.Tags()["tensors"]:
            content = accumulator.PluginTagToContent("hparams")
            start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
            end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
            found[place.name.partition("hidden=8 ")[2]] = dict(start.hparams), end.status
    return found


def test_each_run_and_member_has_its_own_hyperparameters(runs):
    found = hparams(runs["root"])
    rates = {name: given["optimizer.learning_rate"].number_value for name, (given, _) in found.items()}
    assert rates == {
        "steps=8 seed=0 lr=0.001": 0.001,
        "steps=8 seed=1 lr=0.01": 0.01,
        "steps=4 seed=3 schedule=cosine": 0.001,
        "steps=8 optimizer=sgd lr=1e30": 1e30,
    }
    seeds = {name: given["seed"].string_value for name, (given, _) in found.items()}
    assert list(map(seeds.get, rates)) == [name.partition("seed=")[2][:1] or "0" for name in rates]
    given, _ = found["steps=4 seed=3 schedule=cosine"]
    assert "schedule.init_value" not in given and not any(key.startswith("strategy.members") for key in given)
    assert {name for name, (_, status) in found.items() if status != 1} == {"steps=8 optimizer=sgd lr=1e30"}


def test_the_board_names_runs_keeps_all_points_and_leaves_nothing(runs, tmp_path):
    command = [sys.executable, "-m", "framework", "board", str(runs["root"]), "--port", "0"]
    log, environment = tmp_path / "log", {**os.environ, "TMPDIR": str(tmp_path)}
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as server:
        try:
            url = patiently(lambda: re.search(r"TensorBoard of 5 runs: (http://\S+)/", log.read_text()), server)[1]
            patiently(lambda: len(ask(f"{url}/data/runs", {})) == 5, server)
            names = {name.partition("hidden=8 ")[2] for name in ask(f"{url}/data/runs", {})}
            assert names == {*hparams(runs["root"]), "steps=8 mean of 2"}
            experiment = ask(f"{url}/data/plugin/hparams/experiment", {"body": {"experimentName": ""}})
            tags = {metric["name"]["tag"] for metric in experiment["metricInfos"]}
            assert tags == {"train/loss", "train/accuracy", "eval/loss", "eval/accuracy"}
            first = [info["name"] for info in experiment["hparamInfos"][:4]]
            assert {"seed", "optimizer.learning_rate", "optimizer.name"} <= set(first)
            of_one = {"tag": "train/loss", "run": sorted(ask(f"{url}/data/runs", {}))[0]}
            assert len(ask(f"{url}/data/plugin/scalars/scalars", of_one)) > 2, "curves have their points"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(100)
    assert server.returncode == 0 and [path.name for path in tmp_path.iterdir()] == ["log"]


def ended(folder, status="done", seed=0, **overrides):
    """A run folder of a seed whose loss is twice the seed after each step."""
    folder.mkdir()
    record = {"name": "mnist", "status": status, "id": "", "overrides": {"seed": str(seed), **overrides}}
    record |= {"config": {"metrics": {"accuracy": {}}}, "directions": {"train/loss": False, "train/rate": None}}
    (folder / "run.json").write_text(json.dumps(record))
    history = MetricsFile(folder)
    history.cut(0)
    for step in range(1, 4 + seed):
        history.append(step, {"train/loss": 2.0 * seed * step, "train/rate": 0.5, "perf/examples_per_second": 7.0})
    return folder


def test_seeds_of_a_point_have_a_mean_once_they_are_done(tmp_path):
    means, board = Means(tmp_path / "board"), tmp_path / "board"
    runs = [ended(tmp_path / str(seed), seed=seed, lr="0.1") for seed in (0, 1)]
    runs += [ended(tmp_path / "failed", "failed", 2, lr="0.1"), ended(tmp_path / "other", seed=5, lr="0.2")]
    later = ended(tmp_path / "4", seed=4, lr="0.1")
    for known, expected in ((runs, [1, 0, 2]), ([*runs, later], [10 / 3, 0, 8])):
        means.look(known)
        (place,) = board.iterdir()
        assert place.name == "mnist lr=0.1 mean of seeds"
        accumulator = EventAccumulator(str(place), size_guidance={"tensors": 0}).Reload()
        found = {
            tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto).item()) for e in accumulator.Tensors(tag)]
            for tag in accumulator.Tags()["tensors"]
            if not tag.startswith("custom_scalars")
        }
        tags = ("train/loss", "train/loss/lowest", "train/loss/highest")
        assert found == {
            tag: [(step, pytest.approx(each * step)) for step in (1, 2, 3)]
            for tag, each in zip(tags, expected, strict=True)
        }
        assert len([path for path in place.iterdir() if path.stat().st_size]) == 1


def test_links_of_the_board_keep_their_names_when_runs_come(tmp_path):
    names = Names(tmp_path / "runs", tmp_path / "links")
    (tmp_path / "links").mkdir()
    for number, time in enumerate(("2", "1", "3")):
        place = tmp_path / "runs" / "mnist" / time / "mnist"
        place.mkdir(parents=True)
        (place / "events.out.tfevents.1").touch()
        names.look()
        assert len(names) == number + 1
    links = {path.name: path.resolve().parent.name for path in (tmp_path / "links").iterdir()}
    assert links == {"mnist": "2", "mnist 1": "1", "mnist 3": "3"}


def test_a_board_of_no_folder_is_refused():
    told = testing.command("board", "nowhere")
    assert told.code == 5 and "nowhere is not a folder of runs: there is no such folder" in told.err
