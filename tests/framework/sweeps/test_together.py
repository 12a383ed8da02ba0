"""Points of one program: each is its solo run to rounding, with all that a run leaves."""

import json
import platform
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import framework
from framework import testing
from framework.contracts.launcher import Job
from framework.sweeps.folder import ledger_of
from framework.sweeps.ledger import Ledger
from framework.sweeps.together import grouped
from framework.sweeps.worker import job_of
from framework_launchers import auto

WORDS = [*testing.TINY, "train.steps=12", "train.eval_every=4", "train.checkpoint_every=8"]
WORDS += ["optimizer=sgd", "schedule=constant"]
GRID = ["seed=0,1", "optimizer.learning_rate=0.01,0.3"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Four points as one program, of which two lose their numbers."""
    folder = tmp_path_factory.mktemp("together")
    words = [*WORDS, "seed=0,1", "optimizer.learning_rate=0.01,1e38", "launcher=vmapped", f"sweep.dir={folder}/sweep"]
    done = testing.command("-m", *words)
    return folder, done


def test_points_are_counted_as_they_are_told(swept):
    _, done = swept
    told = [line for line in done.err.splitlines() if re.match(r"job \d/4 ", line)]
    assert [line.rpartition("; ")[2] for line in told] == [f"{n} of 4 over" for n in (1, 2, 3, 4)], done.err
    begun = [line[:8] for line in done.err.splitlines() if re.match(r"job \d/4:", line)]
    assert begun == [f"job {n}/4:" for n in (1, 2, 3, 4)]


def test_each_point_is_its_solo_run_to_rounding(swept):
    folder, _ = swept
    for seed in (0, 1):
        run = folder / "sweep" / "runs" / f"{2 * seed + 1:03}-seed={seed},learning_rate=0.01"
        solo = framework.run([*WORDS, f"seed={seed}", "optimizer.learning_rate=0.01", f"run.dir={folder}/solo-{seed}"])
        ours, theirs = testing.records(run), testing.records(solo)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [0, 1, 4, 8, 12]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.keys() == other.keys()
            for tag in mine:
                assert float(mine[tag]) == pytest.approx(float(other[tag]), rel=2e-5), tag
        record, expected = (json.loads((each / "run.json").read_text()) for each in (run, solo.directory))
        for record_of in (record, expected):
            record_of["config"]["run"]["dir"] = record_of["config"]["run"]["resume"] = None
        assert record["config"] == expected["config"]
        assert record["plugins"] == expected["plugins"] and record["splits"] == expected["splits"]
        assert (record["status"], record["exit_code"], record["step"]) == ("done", 0, 12)
        assert sorted(each.name for each in (run / "checkpoints").iterdir()) == ["12", "8"]
        assert list(run.rglob("events.out.tfevents*"))
        inputs = np.ones((3, 6), np.float32)
        np.testing.assert_allclose(framework.load(run)(inputs), solo.model(inputs), rtol=2e-4, atol=1e-6)


def test_a_point_that_loses_its_numbers_fails_alone_and_is_never_best(swept):
    folder, done = swept
    assert done.code == 6
    with Ledger(ledger_of(folder / "sweep")) as ledger:
        states = {point.number: point.state for point in ledger.points()}
        assert states == {1: "done", 2: "failed", 3: "done", 4: "failed"}
        assert "not finite" in (ledger.point(2).reason or "")
    assert "best: point 2" not in done.err and "best: point 4" not in done.err
    record = json.loads((folder / "sweep" / "runs" / "002-seed=0,learning_rate=1e+38" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", 6)


def test_a_point_goes_on_alone_from_its_own_checkpoint(swept):
    folder, _ = swept
    run = folder / "sweep" / "runs" / "001-seed=0,learning_rate=0.01"
    longer = framework.resume(run, ["train.steps=16"])
    straight = framework.run([*WORDS, "optimizer.learning_rate=0.01", f"run.dir={folder}/straight", "train.steps=16"])
    assert longer.metrics["eval/loss"] == pytest.approx(straight.metrics["eval/loss"], rel=2e-5)
    assert [line["step"] for line in testing.records(run)] == [0, 1, 4, 8, 12, 16]


def test_points_are_grouped_by_what_one_program_can_hold(tmp_path):
    from framework.sweeps import plan as plans
    from framework.sweeps.start import begin, recorded

    folder = begin(plans.read([*WORDS, "seed=0,1", "optimizer.learning_rate=0.1,0.2", f"sweep.dir={tmp_path}/sweep"]))
    with Ledger(ledger_of(folder)) as ledger:
        assert recorded(ledger)[0].search["name"] == "grid"
        points = [
            ["seed=0", "optimizer.learning_rate=0.1"],
            ["seed=1", "optimizer.learning_rate=0.2"],
            ["seed=1", "optimizer.learning_rate=0.2", "model.hidden=[4]"],
            ["seed=1", "nan_policy=ignore"],
            ["seed=2", "optimizer.learning_rate=0.2", "train.log_every=3"],
            ["seed=2", "no.such=1"],
        ]
        for number, words in enumerate(points):
            ledger.add(number, "", {}, [*WORDS, *words], f"runs/{number}")
        jobs = [job_of(folder, point) for point in ledger.points()]
    assert [[job.number for job in group] for group in grouped(jobs, None)] == [[0, 1], [2], [3], [4], [5]]


def test_a_number_that_a_branch_depends_on_splits_the_group(tmp_path):
    words = [*testing.TINY, "train.steps=2", "schedule=constant", "optimizer=adam", "seed=0,1"]
    words += ["optimizer.eps_root=0.0,1e-6", f"sweep.dir={tmp_path}/sweep", "launcher=vmapped"]
    done = testing.command("-m", *words)
    assert done.code == 0, done.err
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        assert [point.state for point in ledger.points()] == ["done"] * 4


@pytest.mark.parametrize(("model", "chosen"), [("mlp", "vmapped"), ("cnn", "turn")])
def test_auto_says_what_it_chose_and_why(tmp_path, model, chosen):
    """A perceptron's small steps become one program; a convolutional network's fill the cores by themselves."""
    words = ["data=synthetic", "data.shape=[28,28,1]", "data.examples=64", "data.batch_size=32", "train.steps=1"]
    done = testing.command("-m", *words, f"model={model}", "seed=0,1", f"sweep.dir={tmp_path}/sweep")
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("launcher: ")]
    assert re.fullmatch(rf"launcher: {chosen}, since a step of one point has \S+ MFLOP, on a CPU", line)
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        assert [point.state for point in ledger.points()] == ["done"] * 2


def test_a_program_of_points_that_is_stopped_goes_on_by_its_sweep_alone(tmp_path):
    words = [*testing.TINY, "train.steps=1000000", "train.eval_every=0", "train.log_every=50", "seed=0,1"]
    command = [sys.executable, "-m", "framework", "-m", *words, "sweep.dir=my sweep", "launcher=vmapped"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (logs := [path for path in tmp_path.glob("my sweep/runs/*/metrics.jsonl") if path.stat().st_size]):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 143
    assert "`framework sweep resume 'my sweep'` goes on from there" in said
    assert "groups" not in said
    (group,) = (tmp_path / "my sweep" / "groups").iterdir()
    refused = testing.command("resume", str(group))
    assert (refused.code, "is one program of a sweep" in refused.err, "sweep resume" in refused.err) == (2, True, True)
    with Ledger(ledger_of(tmp_path / "my sweep")) as ledger:  # as a kill leaves it
        assert [point.state for point in ledger.points()] == ["preempted"] * 2
        assert ledger.claim(1, f"{platform.node()} 1 never 0") is not None
    status = json.loads(testing.command("sweep", "status", f"{tmp_path}/my sweep", "--json").out)
    last = [json.loads(path.read_text().splitlines()[-1])["step"] for path in sorted(logs)]
    assert status["counts"] == {"lost": 1, "preempted": 1}
    assert status["points"][0]["step"] >= last[0] > 0
    waited = testing.command("sweep", "wait", f"{tmp_path}/my sweep")
    assert (waited.code, "nobody works on them" in waited.err) == (75, True)


def test_a_callback_ends_its_point_alone(tmp_path):
    stopping = ["callbacks=[checkpoint,early_stopping]", "callbacks.early_stopping.target=3.2"]
    words = ["optimizer.learning_rate=1e-6,0.3", f"sweep.dir={tmp_path}/sweep", "launcher=vmapped"]
    done = testing.command("-m", *WORDS, *stopping, *words)
    assert done.code == 0, done.err
    runs = sorted((tmp_path / "sweep" / "runs").iterdir())
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    solo = framework.run([*WORDS, *stopping, "optimizer.learning_rate=0.3", f"run.dir={tmp_path}/solo"])
    assert solo.status == "stopped"
    expected = json.loads((tmp_path / "solo" / "run.json").read_text())
    assert [record["status"] for record in records] == ["done", "stopped"]
    assert (records[1]["step"], records[0]["step"]) == (expected["step"], 12)
    assert records[1]["reason"].partition(" is ")[0] == expected["reason"].partition(" is ")[0] == "eval/loss"
    assert framework.load(runs[1]) is not None
    assert [line["step"] for line in testing.records(runs[1])] == [line["step"] for line in testing.records(solo)]


@pytest.mark.parametrize(
    ("seconds", "busy", "points", "workers", "cores", "is_faster"),
    [
        (30.0, 1.0, 10, 2, 2, True),  # one core each
        (30.0, 1.9, 10, 2, 2, False),  # a point fills both
        (0.7, 1.0, 100, 2, 2, False),  # a start takes longer than a point
        (30.0, 1.0, 1, 2, 2, False),
        (30.0, 2.0, 40, 16, 32, True),
        (30.0, 30.0, 40, 16, 32, False),
    ],
)
def test_processes_are_chosen_where_they_share_the_cores(seconds, busy, points, workers, cores, is_faster):
    assert auto.pays(auto.Timed(seconds, busy), points, workers, cores)[0] is is_faster


def test_auto_gives_each_of_several_gpus_a_point(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # JAX itself finds none here
    words = [*testing.TINY, "train.steps=1", "callbacks=[]", "model.hidden=[2],[3]", f"sweep.dir={tmp_path}/sweep"]
    done = testing.command("-m", *words)
    assert done.code == 0, done.err
    assert "launcher: processes, since 2 GPUs can train a point each" in done.err
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        assert [point.state for point in ledger.points()] == ["done"] * 2


def test_points_with_probes_are_one_program_if_they_differ_in_seeds_alone(tmp_path):
    words = [*WORDS, "probes=[norms]", "probes.norms.every=6", f"sweep.dir={tmp_path}/sweep"]
    done = testing.command("-m", *words, "seed=3,4", "callbacks=[checkpoint]", "launcher=vmapped")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "sweep" / "groups").iterdir())) == 1
    for number, seed in ((1, 3), (2, 4)):
        solo = framework.run([*words[:-1], f"seed={seed}", "callbacks=[checkpoint]", f"run.dir={tmp_path}/{seed}"])
        ours, theirs = (testing.records(each) for each in (tmp_path / f"sweep/runs/00{number}-seed={seed}", solo))
        assert [[*line] for line in ours] == [[*line] for line in theirs]
        assert sum(any(tag.startswith("probe/norms/") for tag in line) for line in ours) == 2
        for mine, other in zip(ours, theirs, strict=True):
            for tag in mine:
                assert float(mine[tag]) == pytest.approx(float(other[tag]), rel=2e-4, abs=1e-6), tag


def test_a_whole_number_beside_real_ones_is_one_of_them(tmp_path):
    base = [*WORDS, "optimizer.momentum=0.5", "run.resume=auto"]
    jobs = [
        Job(number, 1, (*base, f"optimizer.learning_rate={rate}"), str(tmp_path / f"{number}"), ())
        for number, rate in enumerate(("0.5", "1", "1.5"), 1)
    ]
    assert [len(group) for group in grouped(jobs, None)] == [3]
    probed = [job._replace(words=(*job.words, "probes=[norms]")) for job in jobs]
    assert [len(group) for group in grouped(probed, None)] == [1, 1, 1]
    layers = [job._replace(words=(*base, f"model.hidden=[{8 * job.number}]")) for job in jobs]
    assert [len(group) for group in grouped(layers, None)] == [1, 1, 1]


FUSSY = """
from framework.api import Callback

class Fussy(Callback):
    def on_start(self, run):
        if run.config["seed"] == 1:
            raise ValueError("no seed 1")

def fussy() -> Callback:
    return Fussy()
"""


def test_a_program_that_cannot_begin_leaves_each_point_to_itself(tmp_path, install):
    install("acme", {"framework.callbacks": {"fussy": "acme_fussy:fussy"}}, {"acme_fussy.py": FUSSY})
    words = [*WORDS, "callbacks=[fussy]", "seed=0,1,2", "launcher=vmapped", f"sweep.dir={tmp_path}/sweep"]
    done = testing.command("-m", *words)
    assert done.code == 3, done.err
    assert "trained in turn, since their program failed" in done.err and "no seed 1" in done.err
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        assert [(point.state, point.step) for point in ledger.points()] == [("done", 12), ("failed", 0), ("done", 12)]
