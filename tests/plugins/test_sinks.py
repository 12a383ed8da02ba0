"""Sinks take scalars and media, and a resumed run goes on in the same place with each point once."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import struct
import warnings

import pytest

import framework
from framework import testing
from framework.contracts.components import History, Run, Summary
from framework.errors import ConfigError
from framework_sinks.mlflow_store import mlflow
from framework_sinks.sink import Sink, flat, title
from framework_sinks.table import csv as table
from framework_sinks.weights_and_biases import wandb

WORDS = [
    "data.shape=[8,8,1]",
    "train.log_every=2",
    "train.eval_every=2",
    "train.checkpoint_every=4",
    "callbacks+=[views]",
]
WORDS += ["callbacks.views.show=[images,mistakes,histograms,pr_curves,projector]"]


def trained(tmp_path, *words):
    """Train for 6 steps, go back to the checkpoint of step 4 as after a kill, and train on to step 8."""
    result = testing.train(tmp_path, *WORDS, *words, "train.steps=6", "seed=2")
    shutil.rmtree(result.directory / "checkpoints" / "6")
    return framework.resume(result.directory, ["train.steps=8"])


def values(record):
    return {tag: value for tag, value in record.items() if tag != "step" and not tag.startswith("perf/")}


def test_a_table_has_each_step_once(tmp_path):
    result = trained(tmp_path, "callbacks+=csv")
    with (result.directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [{tag: float(value) for tag, value in row.items() if value} for row in rows]
    assert found == testing.records(result, timed=True)
    assert {2, 4, 6, 8} <= {row["step"] for row in found}


def test_a_table_grows_by_rows_and_columns(tmp_path):
    records = []

    class Memory(History):
        def records(self, since=0):
            return iter(records)

    def log(step, **scalars):
        if records and records[-1]["step"] == step:
            records[-1] |= scalars
        else:
            records.append({"step": step, **scalars})
        callback.on_log(step, scalars)

    callback = table("t.csv")
    callback.on_start(Run(tmp_path, "n", {}, 0, 1, 1, 1, (), {}, history=Memory()))
    log(1, a=1.5)
    log(2, a=2.5)
    log(2, b=0.1)
    log(3, b=0.2)
    assert (tmp_path / "t.csv").read_text() == "step,a,b\n1,1.5,\n2,2.5,0.1\n3,,0.2\n"
    with pytest.raises(ConfigError, match="expected a name such as"):
        table("../t.csv")


class Broken(Sink):
    name = "broken"

    def __init__(self, fails):
        self.fails, self.sent = fails, []

    def open(self, run):
        pass

    def send(self, step, scalars):
        if step == self.fails:
            raise OSError("no network")
        self.sent.append(step)

    def close(self, status):
        self.sent.append(status)


@pytest.mark.parametrize(("fails", "sent"), [(None, [1, 2, 3, "done"]), (2, [1])])
def test_a_tracker_that_fails_ends_no_run(tmp_path, caplog, fails, sent):
    sink = Broken(fails)
    sink.on_start(Run(tmp_path, "n", {}, 0, 1, 1, 1, (), {}))
    with caplog.at_level(logging.WARNING, "framework"):
        for step in (1, 2, 3):
            sink.on_log(step, {})
        sink.on_end(Summary(3, {}, "done", 0.0))
    assert sink.sent == sent
    assert caplog.text.count("broken gets nothing more, and the run goes on without: OSError: no network") == bool(
        fails
    )


def test_names_and_configs():
    run = Run(
        None,
        "mnist",
        {},
        0,
        1,
        1,
        1,
        (),
        {},
        overrides={"experiment": "mnist", "seed": "2", "run.dir": "x", "a.b": "3"},
    )
    assert title(run) == "mnist seed=2 b=3" and title(run, without=("seed",)) == "mnist b=3"
    assert flat({"a": {"b": 1, "c": [2]}, "d": None}) == {"a.b": 1, "a.c": [2], "d": None}


@pytest.mark.parametrize("sink", [wandb, mlflow])
def test_what_is_not_installed_is_one_line(sink, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"is not installed; pip install framework\[\w+\]\."):
        sink()


def leveldb(content):
    """Yield the records of a file in LevelDB's log format, in which wandb writes after seven bytes of its own."""
    place, parts = 7, []
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or last
            yield b"".join(parts)
            parts = []


@pytest.mark.filterwarnings("ignore")  # those of its own libraries
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install framework[wandb]")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    result = trained(tmp_path, "callbacks+=wandb", "callbacks.wandb.project=tests")
    rows, runs = {}, []
    for path in sorted((result.directory / "wandb").glob("offline-run-*/*.wandb")):
        for data in leveldb(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                runs.append((record.run.run_id, record.run.display_name, record.run.run_group))
            if record.HasField("history"):
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                step = int(items["_step"])
                assert not set(rows.get(step, ())) & set(items) - {"_step", "_runtime", "_timestamp"}, step
                rows.setdefault(step, {}).update(items)
    identity = testing.run_record(result)["id"]
    assert {run[0] for run in runs} == {identity} and "seed=2" in runs[0][1] and "seed" not in runs[0][2]
    expected = testing.records(result)
    assert sorted(rows) == [record["step"] for record in expected]
    for record in expected:
        found = {tag: float(rows[record["step"]][tag]) for tag in values(record)}
        assert found == pytest.approx(values(record))
    kinds = {json.loads(value) for row in rows.values() for tag, value in row.items() if tag.endswith("/_type")}
    assert {"images/separated", "image-file"} & kinds and {"histogram", "table-file"} <= kinds


@pytest.mark.filterwarnings("ignore")  # those of its own libraries
def test_mlflow_in_a_local_database(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install framework[mlflow]")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        result = trained(tmp_path, "callbacks+=mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name != "Default")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and "seed=2" in run.info.run_name
    assert run.data.tags["framework.run"] == testing.run_record(result)["id"]
    assert run.data.params["data.name"] == "synthetic" and run.data.params["seed"] == "2"
    for tag in ("train/loss", "eval/accuracy"):
        history = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, tag)]
        steps = [record["step"] for record in testing.records(result) if tag in record]
        assert sorted(history) == list(zip(steps, testing.series(result, tag), strict=True))
    folders = [each.path for each in client.list_artifacts(run.info.run_id, "media")]
    assert "media/examples" in folders and (tmp_path / "mlartifacts").is_dir()
