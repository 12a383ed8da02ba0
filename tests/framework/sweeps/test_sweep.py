"""Sweeps from the first point to the table: each point its own solo run, and nothing lost or made twice."""

import csv
import fcntl
import io
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import framework
from framework import testing
from framework.commands.answers import json_of
from framework.contracts.search import Choice, Interval
from framework.errors import ConfigError
from framework.sweeps import folder as folders
from framework.sweeps import plan as plans
from framework.sweeps import points as contents
from framework.sweeps import space as spaces
from framework.sweeps import status
from framework.sweeps.folder import is_sweep, ledger_of
from framework.sweeps.ledger import Ledger
from framework.sweeps.preview import preview
from framework.sweeps.python_api import results
from framework.sweeps.results import seed_key, spread_of
from framework.sweeps.start import begin, recorded

WORDS = [*testing.TINY, "train.steps=6", "train.eval_every=3", "callbacks=[checkpoint]"]
GRID = ["seed=0,1", "optimizer.learning_rate=1e-3,1e-2"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of four points in turn, and the same by processes."""
    folder = tmp_path_factory.mktemp("swept")
    turn = framework.sweep([*WORDS, *GRID, f"sweep.dir={folder}/turn", "launcher=turn"])
    done = testing.command("-m", *WORDS, *GRID, f"sweep.dir={folder}/processes", "launcher=processes")
    assert done.code == 0, done.err
    return folder, turn, done


def digest(run: Path) -> str:
    return json.loads((run / "checkpoints" / "6" / "manifest.json").read_text())["leaves"]


def test_each_point_is_its_solo_run_bit_by_bit(swept, tmp_path):
    folder, turn, _ = swept
    solo = framework.run([*WORDS, "seed=1", "optimizer.learning_rate=1e-2", f"run.dir={tmp_path}/solo"])
    expected = [{**line} for line in testing.records(solo)]
    for launcher in ("turn", "processes"):
        run = folder / launcher / "runs" / "004-seed=1,learning_rate=0.01"
        assert testing.records(run) == expected
        assert digest(run) == digest(solo.directory)
        record = json.loads((run / "run.json").read_text())
        assert (record["status"], record["step"], record["config"]["seed"]) == ("done", 6, 1)
        assert not {"launcher", "search", "sweep"} & set(record["config"])
        assert (run / "run.log").read_text()
    assert len(turn.rows) == 2


def test_each_job_is_told_once_as_it_begins_and_as_it_ends(swept):
    _, _, done = swept  # in processes, which the driver hears of by the ledger
    lines = [line for line in done.err.splitlines() if line.startswith("job ")]
    for number, name in enumerate(["0 learning_rate=0.001", "0 learning_rate=0.01", "1 learning_rate=0.001"], 1):
        begins, ends = (line for line in lines if line.startswith(f"job {number}/4"))
        assert begins == f"job {number}/4: seed={name}"
        assert ends.startswith(f"job {number}/4 (seed={name}) done at step 6, ") and ", eval/loss " in ends
    assert [line.rpartition("; ")[2] for line in lines if "done" in line] == [f"{n} of 4 over" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_list_of_points_is_no_wider_than_the_terminal(swept, width):
    folder = swept[0] / "turn"
    with Ledger(folders.ledger_of(folder)) as ledger:
        found = status.seen(folder, ledger)
    points = [found.points[0], found.points[1]._replace(state="failed", reason="a long reason " * 20)]
    lines = status.table(found._replace(points=points), width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[:2] for line in lines if re.match(r" +\d ", line)] == [["1", "done"], ["2", "failed"]]
    assert " ".join("".join(lines).split()).count("long reason") == 20


def test_the_table_is_the_mean_over_the_seeds(swept):
    folder, turn, _ = swept
    assert turn.seed == "seed"
    losses = {}
    for run in (folder / "turn" / "runs").iterdir():
        record = json.loads((run / "run.json").read_text())
        rate = record["config"]["optimizer"]["learning_rate"]
        losses.setdefault(rate, []).append(record["metrics"]["eval/loss"])
    for row in turn.rows:
        values = losses[row.setting["optimizer.learning_rate"]]
        found = row.metrics["eval/loss"]
        assert (found.mean, found.n) == (pytest.approx(statistics.fmean(values)), 2)
        assert found.sd == pytest.approx(statistics.stdev(values))
    assert turn.best is not None
    assert turn.best.scalars["eval/loss"] == min(value for values in losses.values() for value in values)
    read = list(csv.DictReader(io.StringIO(turn.text("csv"))))
    assert [float(row["eval/loss"]) for row in read] == [row.metrics["eval/loss"].mean for row in turn.rows]
    content = json.loads(json_of(turn.as_json()))
    assert content["best"]["point"] == turn.best.number and len(content["rows"]) == 2
    assert turn.text("md").splitlines()[1].startswith("| --- |")
    assert turn.text("latex").startswith(r"\begin{tabular}")
    assert "best: point" in repr(turn)


def test_the_table_is_a_frame_of_pandas(swept):
    pytest.importorskip("pandas")
    turn = swept[1]
    frame = turn.frame()
    assert list(frame["n"]) == [2, 2] and list(frame["eval/loss"]) == [row["eval/loss"] for row in turn.records()]


def test_the_same_command_again_trains_only_what_is_new(swept):
    folder, _, _ = swept
    before = {run: (run / "run.json").stat().st_mtime_ns for run in (folder / "turn" / "runs").iterdir()}
    words = [*WORDS, "optimizer.learning_rate=1e-3,1e-2", f"sweep.dir={folder}/turn", "launcher=turn"]
    planned = testing.command("sweep", "plan", *words, "seed=0,1,2")
    assert planned.out.count(": done") == 4 and planned.out.count("differs from point") == 2
    assert "in seed (0 to 2)" in planned.out
    done = testing.command("-m", *words, "seed=0,1,2")
    assert done.code == 0, done.err
    assert "4 of 6 points are done already" in done.err
    assert done.err.count(" done at step 6, ") == 2 and "run folder:" not in done.err, "a line for each point"
    assert all("run folder: " in (run / "run.log").read_text() for run in (folder / "turn" / "runs").iterdir())
    after = {run: (run / "run.json").stat().st_mtime_ns for run in (folder / "turn" / "runs").iterdir()}
    assert {run: after[run] for run in before} == before
    assert sorted(run.name[:3] for run in after) == ["001", "002", "003", "004", "005", "006"]
    assert testing.command("sweep", "wait", f"{folder}/turn").code == 0
    assert "6 points: 6 done; nobody drives it" in testing.command("sweep", "status", f"{folder}/turn").out
    listed = json.loads(testing.command("sweep", "status", f"{folder}/turn", "--json").out)
    assert [point["attempts"] for point in listed["points"]] == [1] * 6


def test_a_change_of_the_data_is_named_and_those_points_are_trained_again(swept, tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 6)).astype(np.float32)
    np.savez(tmp_path / "own.npz", inputs=inputs, targets=np.arange(64, dtype=np.int32) % 3)
    words = [*WORDS, "data=arrays", f"data.train={tmp_path}/own.npz", "~data.shape", "~data.examples", "~data.noise"]
    words = [word for word in words if not word.startswith(("data=syn", "data.shape", "data.ex", "data.noise", "~"))]
    words += ["model.classes=3", "seed=0,1", f"sweep.dir={tmp_path}/sweep", "launcher=turn"]
    assert testing.command("-m", *words).code == 0
    np.savez(tmp_path / "own.npz", inputs=inputs + 1, targets=np.arange(64, dtype=np.int32) % 3)
    done = testing.command("-m", *words)
    assert done.code == 0, done.err
    assert done.err.count("is trained again, since it differs: the data of the split") == 2
    assert len(list((tmp_path / "sweep" / "runs").iterdir())) == 4, "the former runs stay"


COUNTS = """
import gc
from contextlib import suppress
from pathlib import Path
from framework.api import Callback
from framework.experiment import Experiment
def files():  # without those of the ledger, which threads open when they get to it
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            yield "ledger" not in str(each.readlink())
class Count(Callback):
    def on_end(self, summary):
        gc.collect()
        FOUND.append((sum(files()), sum(isinstance(each, Experiment) for each in gc.get_objects())))
FOUND = []
def count():
    return Count()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system lists no open files")
def test_points_in_turn_leave_nothing_behind(install, tmp_path):
    install("acme", {"framework.callbacks": {"count": "acme_count:count"}}, {"acme_count.py": COUNTS})
    words = [*WORDS, "train.steps=1", "callbacks=[count]", "seed=range(0,5)", f"sweep.dir={tmp_path}/sweep"]
    assert testing.command("-m", *words, "launcher=turn").code == 0
    found = sys.modules["acme_count"].FOUND
    assert len(found) == 5 and len(set(found[1:])) == 1, found


def test_a_change_while_a_sweep_runs_is_named_and_is_what_the_ledger_says(install, tmp_path, monkeypatch):
    """The first point changes a file of one's own configs and the code of a package, before the second is begun."""
    mine = "name: sgd\nlearning_rate: 0.1\nmomentum: {}\n"
    base = "from framework.api import Callback\nclass Edit(Callback):\n    def on_end(self, summary):\n"
    edit = "        (CONF / 'optimizer' / 'mine.yaml').write_text(MINE)\n"
    edit += "        (SITE / 'acme' / 'edits' / 'deep' / 'constant.py').write_text('ONE = 1\\n')\ndef edit():\n"
    edit += "    return Edit()\n"
    folder = install("acme-edits", {"framework.callbacks": {"edit": "acme.edits:edit"}}, {})
    for name in ("acme/edits/constant.py", "acme/edits/deep/__init__.py", "acme/edits/deep/constant.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)  # and no acme/__init__.py: others may share it
        (folder / name).write_text("")
    conf = tmp_path / "conf"
    (conf / "optimizer").mkdir(parents=True)
    (conf / "optimizer" / "mine.yaml").write_text(mine.format(0.5))
    head = f"from pathlib import Path\nCONF, SITE = Path({str(conf)!r}), Path({str(folder)!r})\n"
    head += f"MINE = {mine.format(0.25)!r}\n"
    (folder / "acme/edits/__init__.py").write_text(head + base + edit)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    words = [*WORDS, "optimizer=mine", "callbacks=[edit]", "seed=0,1,2", f"sweep.dir={tmp_path}/sweep"]
    command = ["-m", "--config-dir", str(conf), *words, "launcher=processes", "launcher.workers=1"]
    done = testing.command(*command)
    assert done.code == 0, done.err
    changed = f"{conf}/optimizer/mine.yaml has changed while the sweep runs"
    assert f"{changed}: point 2 (seed=1) and later ones are trained with it\n" in done.err
    assert done.err.count("was trained with what changed while the sweep ran: the code of callbacks.edit\n") == 2
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        made = [(point.content or {})["config"]["optimizer.momentum"] for point in ledger.points()]
    assert made == [0.5, 0.25, 0.25]
    contents._sources.cache_clear()  # as in another process
    again = testing.command(*command)
    assert again.err.count("is trained again, since it differs") == 1, again.err
    assert (
        "point 1 (seed=0) is trained again, since it differs: optimizer.momentum (0.5 to 0.25), the code" in again.err
    )


CUT = """
import os, signal
from pathlib import Path
from framework.api import Callback
class Cut(Callback):
    def on_log(self, step, scalars):
        if not Path(PLACE, "cut").exists():
            Path(PLACE, "cut").touch()
            Path(PLACE, "optimizer", "mine.yaml").write_text(MINE)
            os.kill(os.getpid(), signal.SIGKILL)
def cut():
    return Cut()
"""


def test_a_point_that_is_lost_after_its_config_has_changed_is_trained_again(install, tmp_path, monkeypatch):
    """It could not go on: `resume` refuses to go on with another config."""
    mine = "name: sgd\nlearning_rate: 0.1\nmomentum: {}\n"
    conf = tmp_path / "conf"
    (conf / "optimizer").mkdir(parents=True)
    (conf / "optimizer" / "mine.yaml").write_text(mine.format(0.5))
    source = f"PLACE, MINE = {str(conf)!r}, {mine.format(0.25)!r}\n{CUT}"
    folder = install("acme", {"framework.callbacks": {"cut": "acme_cut:cut"}}, {"acme_cut.py": source})
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    words = [*WORDS, "optimizer=mine", "callbacks=[cut]", "seed=choice(0)", f"sweep.dir={tmp_path}/sweep"]
    done = testing.command("-m", "--config-dir", str(conf), *words, "launcher=processes", "launcher.workers=1")
    assert done.code == 0, done.err
    assert "is lost at step " in done.err
    assert done.err.count("is trained again, since it differs: optimizer.momentum (0.5 to 0.25)\n") == 1
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        (point,) = ledger.points()
    assert (point.state, point.attempts, point.directory) == ("done", 2, "runs/001-seed=0~2")
    assert (point.content or {})["config"]["optimizer.momentum"] == 0.25


def test_a_change_of_the_code_is_named_before_any_point_goes_on_with_it(install, tmp_path):
    source = "def halves():\n    return lambda outputs, batch: outputs[..., 0] * 0 + 0.5\n"
    folder = install("acme", {"framework.metrics": {"halves": "acme_metrics:halves"}}, {"acme_metrics.py": source})
    words = [*WORDS, "optimizer=sgd", "schedule=constant", "metrics=[halves]", f"sweep.dir={tmp_path}/sweep"]
    words += ["launcher=turn", "optimizer.learning_rate=1e-2,1e38"]
    assert testing.command("-m", *words).code == 6
    (folder / "acme_metrics.py").write_text(source.replace("0.5", "0.25"))
    contents._sources.cache_clear()  # as in another process
    planned = testing.command("sweep", "plan", *words).out
    assert "learning_rate=0.01: again, since it differs: the code of metrics.halves\n" in planned
    assert "learning_rate=1e+38: failed" in planned, "it is begun once more anyway"
    done = testing.command("-m", *words)
    assert "point 1 (learning_rate=0.01) is trained again, since it differs: the code of metrics.halves\n" in done.err
    assert "point 2 (learning_rate=1e+38) goes on with what has changed: the code of metrics.halves\n" in done.err
    assert done.err.index("what has changed") < done.err.index("job ")
    assert "what has changed" not in testing.command("-m", *words).err, "it is named once"


def test_failures_are_told_at_once_and_retried_by_the_next_command(tmp_path):
    words = [*WORDS, "optimizer=sgd", "schedule=constant", f"sweep.dir={tmp_path}/sweep", "launcher=turn"]
    done = testing.command("-m", *words, "optimizer.learning_rate=1e38,1e-2,1e37", "sweep.stop_on_failure=true")
    assert done.code == 6
    assert "job 1/3: learning_rate=1e+38\n" in done.err
    (ended,) = [line for line in done.err.splitlines() if line.startswith("job 1/3 (learning_rate=1e+38) failed: ")]
    assert "train/loss is nan" in ended and ended.endswith("; 1 of 3 over")
    assert done.err.index(ended) < done.err.index("cost:")
    status = json.loads(testing.command("sweep", "status", f"{tmp_path}/sweep", "--json").out)
    assert [point["state"] for point in status["points"]] == ["failed"], "none was begun after it"
    done = testing.command("sweep", "retry", f"{tmp_path}/sweep")
    assert done.code == 6
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        assert [(point.state, point.attempts) for point in ledger.points()] == [("failed", 2)]
    found = results(tmp_path / "sweep")
    assert found.best is None and [point.number for point in found.failed] == [1]
    done = testing.command("-m", *words, "optimizer.learning_rate=choice(1e-2)")
    assert done.code == 0, done.err
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        assert [point.state for point in ledger.points()] == ["failed", "done"], "nobody asks for the first one"


def test_the_best_point_is_trained_longer(swept):
    folder, _, _ = swept
    best = results(folder / "processes").best
    assert best is not None
    run = results(folder / "processes").best_run
    assert run is not None and run.name.startswith(f"{best.number:03}-")
    of_sweep = framework.evaluate(f"{folder}/processes@best")
    assert of_sweep == framework.evaluate(run) and of_sweep["loss"] == pytest.approx(best.scalars["eval/loss"])
    assert framework.load(folder / "processes@best").step == framework.load(run).step == 6
    done = testing.command("train", f"{folder}/processes", "--best", "train.steps=8", f"run.root={folder}/longer")
    assert done.code == 0, done.err
    (file,) = (folder / "longer").glob("*/*/run.json")
    record = json.loads(file.read_text())
    assert record["name"] == file.parent.parent.name == f"default-processes-{best.number:03}"
    config = record["config"]
    assert config["train"]["steps"] == 8
    assert config["optimizer"]["learning_rate"] == best.parameters["optimizer.learning_rate"]


def started(folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "framework", "-m", *WORDS, f"sweep.dir={folder}", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until(condition, process) -> None:
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)


def test_kills_of_worker_and_driver_lose_no_point_and_run_none_twice(swept, tmp_path):
    """A worker is killed in the middle of its point, then the driver; the next command ends with the same numbers."""
    folder, sweep = swept[0], tmp_path / "sweep"
    process = started(sweep, *GRID, "launcher=processes", "launcher.workers=1")

    def running():
        if not is_sweep(sweep):
            return []
        with Ledger(ledger_of(sweep)) as ledger:
            return ledger.points("running")

    until(running, process)
    os.kill(int(running()[0].owner.split()[1]), signal.SIGKILL)
    until(lambda: (sweep / "runs").exists() and any(p.attempts == 2 for p in running()), process)
    process.kill()
    process.wait()
    done = testing.command("-m", *WORDS, *GRID, f"sweep.dir={sweep}", "launcher=processes")
    assert done.code == 0, done.err
    with Ledger(ledger_of(sweep)) as ledger:
        points = ledger.points()
    assert [point.state for point in points] == ["done"] * 4
    with Ledger(ledger_of(sweep)) as ledger:
        ends = [event.number for event in ledger.events() if event.kind == "done"]
    assert sorted(ends) == [1, 2, 3, 4], "each point came to its end once"
    for point in points:
        assert digest(sweep / point.directory) == digest(folder / "processes" / point.directory)


@pytest.mark.parametrize("state", ["running", "preempted", "failed"])
def test_a_cut_point_whose_config_has_changed_is_trained_again(tmp_path, state):
    """A run cannot go on with another config, and is begun again beside it; its dead worker is found first."""
    conf = tmp_path / "conf"
    (conf / "optimizer").mkdir(parents=True)
    mine = "name: sgd\nlearning_rate: 0.1\nmomentum: {}\n"
    (conf / "optimizer" / "mine.yaml").write_text(mine.format(0.1))
    words = [*WORDS, "optimizer=mine", "seed=0,1", f"sweep.dir={tmp_path}/sweep", "launcher=turn"]
    command = ["--config-dir", str(conf), *words]
    assert testing.command("-m", *command).code == 0
    gone = f"{os.uname().nodename} {2**22 + 1} 1 aa"
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        ledger.reopen(1)
        assert ledger.claim(1, gone)
        if state != "running":
            ledger.finish(1, gone, state, reason="it was cut")
    (conf / "optimizer" / "mine.yaml").write_text(mine.format(0.2))
    differs = "again, since it differs: optimizer.momentum (0.1 to 0.2)\n"
    assert f"1  seed=0: {differs}" in testing.command("sweep", "plan", *command).out
    done = testing.command("-m", *command)
    assert done.code == 0, done.err
    assert done.err.count(f"is trained {differs}") == 2 and "from step" not in done.err
    assert "differs" not in testing.command("-m", *command).err
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        points = ledger.points()
    assert [point.directory for point in points] == ["runs/001-seed=0~2", "runs/002-seed=1~2"]
    made = [(point.content or {})["config"]["optimizer.momentum"] for point in points]
    assert (made, [point.state for point in points]) == ([0.2, 0.2], ["done", "done"])


def test_a_mean_is_over_no_point_of_former_values_that_differs(tmp_path):
    conf = tmp_path / "conf"
    (conf / "optimizer").mkdir(parents=True)
    mine = "name: sgd\nlearning_rate: 0.1\nmomentum: {}\n"
    words = [*WORDS, "optimizer=mine", f"sweep.dir={tmp_path}/sweep", "launcher=turn"]

    def swept(momentum, seeds):
        (conf / "optimizer" / "mine.yaml").write_text(mine.format(momentum))
        done = testing.command("-m", "--config-dir", str(conf), *words, f"seed=choice({seeds})")
        assert done.code == 0, done.err
        found = results(tmp_path / "sweep")
        return done, [row.numbers for row in found.rows], [point.number for point, _ in found.left_out]

    assert swept(0.1, "0,1")[1:] == ([(1, 2)], [])
    (conf / "optimizer" / "mine.yaml").write_text(mine.format(0.2))
    planned = testing.command("sweep", "plan", "--config-dir", str(conf), *words, "seed=choice(2,3)").out
    differs = "left out of the table, since it differs: optimizer.momentum (0.1 to 0.2)"
    assert planned.splitlines()[3:] == [f"  1  seed=0: {differs}", f"  2  seed=1: {differs}"]
    done, rows, left_out = swept(0.2, "2,3")
    assert (rows, left_out) == ([(3, 4)], [1, 2])
    differs = "since it differs: optimizer.momentum (0.1 to 0.2); list its values to train it again\n"
    assert f"point 2 (seed=1) is left out of the table, {differs}" in done.err
    table = testing.command("sweep", "table", f"{tmp_path}/sweep").out
    assert "left out: point 1 (seed=0) differs: optimizer.momentum (0.1 to 0.2); list" in table
    assert results(tmp_path / "sweep").as_json()["left_out"][1]["point"] == 2
    done, rows, left_out = swept(0.2, "0")
    assert (rows, left_out) == ([(1, 3, 4)], [2]), "it is trained again, and the others are as they would be at present"
    assert "point 1 (seed=0) is trained again, since it differs" in done.err


def test_a_plan_shows_a_point_whose_process_is_gone_as_lost(swept, tmp_path):
    """Where code alone differs, it can go on; not where it began with parameters of another run than it would."""
    shutil.copytree(swept[0] / "turn", tmp_path / "sweep")
    beside = {2: "metrics.gone", 3: "what init_from names"}
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        for number in (1, 2, 3):
            point = ledger.point(number)
            content = dict(point.content or {})
            components = {**content["components"], **({beside[number]: "a digest"} if number in beside else {})}
            ledger.rehash(number, point.hash, {**content, "components": components})
            ledger.reopen(number)
            assert ledger.claim(number, f"{os.uname().nodename} {2**22 + 1} 1 aa")
    planned = testing.command("sweep", "plan", *WORDS, *GRID, f"sweep.dir={tmp_path}/sweep", "launcher=turn").out
    assert "1  seed=0 learning_rate=0.001: lost at step 6\n" in planned
    assert "2  seed=0 learning_rate=0.01: lost at step 6\n" in planned
    assert "3  seed=1 learning_rate=0.001: again, since it differs: what init_from names\n" in planned


def test_a_stopped_sweep_saves_its_point_and_goes_on(tmp_path):
    process = started(
        tmp_path / "sweep", "seed=0,1", "launcher=turn", "train.steps=1000000", "train.checkpoint_every=3"
    )
    until(lambda: any((tmp_path / "sweep").glob("runs/*/checkpoints/*")), process)
    assert "driven by process" in testing.command("sweep", "status", f"{tmp_path}/sweep").out
    again = testing.command("sweep", "resume", f"{tmp_path}/sweep")
    assert (again.code, "is driven by process" in again.err) == (2, True)
    assert testing.command("sweep", "stop", f"{tmp_path}/sweep").code == 0
    assert process.wait() == 143
    with Ledger(ledger_of(tmp_path / "sweep")) as ledger:
        assert [point.state for point in ledger.points()] == ["preempted"]
        assert ledger.point(1).attempts == 1


def test_dimensions_of_the_section_and_of_the_words():
    words = spaces.read(["+experiment=mnist", "seed=0,1", "model.hidden=[8],[16,16]", "launcher=turn"])
    assert (words.fixed, words.own) == (("+experiment=mnist",), ("launcher=turn",))
    section = {
        "seed": "0-4",
        "retries": 2,
        "optimizer": {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}},
        "zip": {"data.batch_size": [16, 32], "train.steps": [10, 5]},
    }
    assert list(spaces.declared(section, words)) == [
        Interval("optimizer.learning_rate", 1e-4, 0.1, log=True),
        Choice(("data.batch_size", "train.steps"), ((16, 10), (32, 5))),
        Choice(("seed",), ((0,), (1,))),
        Choice(("model.hidden",), (([8],), ([16, 16],))),
    ]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"seed": []}, "sweep.seed: expected some values"),
        ({"seed": "4-1"}, "the lower number first"),
        ({"retrys": 3}, "no setting of a sweep. Did you mean 'retries'?"),
        ({"optimizer.learning_rate": {"low": 1}}, "needs low and high"),
        ({"optimizer.learning_rate": {"low": 2, "high": 1}}, "expected low < high"),
        ({"optimizer.learning_rate": {"low": 0, "high": 1, "log": True}}, "begins above 0"),
        ({"zip": {"seed": [1, 2], "train.steps": [1]}}, "seed has 2, train.steps has 1"),
    ],
)
def test_a_section_that_cannot_be_read_is_refused(section, says):
    with pytest.raises(ConfigError, match="sweep") as error:
        spaces.declared(section, spaces.read([]))
    assert says in str(error.value)


@pytest.mark.parametrize(
    "value", [1, 1e-05, True, None, "a", "a b", "1", "null", "it's", [1, "b,c"], {"a": [1.5]}, math.inf]
)
def test_values_survive_the_way_through_words(value):
    (word,) = spaces.words_of({"model.option": value})
    read = spaces.typed.read(spaces.rewrite([word]))[0].value()
    assert spaces._plain(read) == value


def test_settings_are_checked_and_the_same_command_is_known():
    one = plans.read([*WORDS, "seed=0,1"])
    assert one.identity == plans.read([*WORDS, "seed=0,1,2", "launcher=processes"]).identity
    assert one.identity != plans.read([*WORDS, "seed=0,1", "train.log_every=3"]).identity
    rates = ["seed=0,1", "optimizer.learning_rate=1e-3,1e-2"]
    assert plans.read([*WORDS, *rates]).identity == plans.read([*reversed(rates), *WORDS]).identity
    drawn = [*WORDS, "model.dropout=interval(0.1,0.5)", "search=sobol", "search.trials=4"]
    sobol = plans.read(drawn)
    assert sobol.identity == plans.read([*drawn[:-1], "search.trials=8"]).identity
    assert sobol.identity != plans.read([*drawn, "sweep.search_seed=1"]).identity
    halving = [*drawn[:-2], "search=halving", "search.first=2"]
    assert plans.read(halving).identity != plans.read([*halving[:-1], "search.first=3"]).identity
    for word, says in {"sweep.retries=-1": "sweep.retries", "sweep.timeout=0": "sweep.timeout"}.items():
        with pytest.raises(ConfigError, match=says):
            plans.read([*WORDS, "seed=0,1", word])
    assert plans.goals_of(plans.read([*WORDS, "seed=0,1", "sweep.metric=eval/accuracy"]))[0].is_high_good
    with pytest.raises(ConfigError, match="no metric 'f1'"):
        plans.goals_of(plans.read([*WORDS, "seed=0,1", "sweep.metric=eval/f1"]))


def test_a_value_that_is_listed_twice_is_refused(tmp_path):
    for words, says in (
        (["seed=0,1,0"], "seed: 0 is listed twice"),
        (["model.hidden=[8],[8]"], r"\[8\] is listed twice"),
    ):
        with pytest.raises(ConfigError, match=says):
            plans.read([*WORDS, *words])


def test_points_of_former_values_are_told_from_those_that_are_asked_for():
    space = [Choice(("model.hidden", "seed"), (([8], 0), ([9], 1))), Interval("lr", 0.1, 1.0)]
    assert spaces.covers(space, {"model.hidden": [9], "seed": 1, "lr": 1.0})
    for other in ({"lr": 1.5}, {"lr": 0.05}, {"seed": 0}, {"model.hidden": [8]}):
        assert not spaces.covers(space, {"model.hidden": [9], "seed": 1, "lr": 1.0} | other)


def test_a_folder_that_holds_the_sweep_of_another_command_is_refused(tmp_path):
    words = [*WORDS, f"sweep.dir={tmp_path}/sweep"]
    folder = begin(plans.read([*words, "seed=0,1"]))
    assert begin(plans.read([*words, "seed=0,1,2", "launcher=turn"])) == folder
    begun = testing.command("sweep", "status", str(folder)).out
    assert begun.startswith("0 of 3 points: none was begun; nobody drives it, `framework sweep resume")
    for others, says in {
        ("train.steps=5", "seed=0,1"): r"sweep.dir: .* \(nothing there, train.steps=5 here\); choose another folder",
        ("optimizer.learning_rate=1e-3,1e-2",): r"seed=… there, optimizer.learning_rate=… here",
        ("seed=0,1", "search=random"): "search=grid there, search=random here",
        ("seed=0,1", "sweep.search_seed=1"): r"\(sweep.search_seed=0 there, sweep.search_seed=1 here\)",
    }.items():
        with pytest.raises(ConfigError, match=says):
            begin(plans.read([*words, *others]))
        with pytest.raises(ConfigError, match=says):
            preview(plans.read([*words, *others]))
    with Ledger(ledger_of(folder)) as ledger:
        assert recorded(ledger)[0].words == plans.read([*words, "seed=0,1"]).words


def test_the_order_of_the_words_changes_neither_a_sweep_nor_the_numbers_of_its_points(tmp_path):
    words = [*WORDS, f"sweep.root={tmp_path}"]
    folder = begin(plans.read([*words, "seed=0,1", "optimizer.learning_rate=1e-3,1e-2"]))
    other = plans.read(["optimizer.learning_rate=1e-3,1e-2,1e-1", "seed=0,1", *words])
    assert begin(other) == folder
    assert [line.partition(":")[0].split() for line in preview(other).text().splitlines()[1:4]] == [
        [number, "seed=0", f"learning_rate={rate}"] for number, rate in (("1", "0.001"), ("2", "0.01"), ("3", "0.1"))
    ]
    with Ledger(ledger_of(folder)) as ledger:
        assert [each.keys for each in recorded(ledger)[0].space] == [("seed",), ("optimizer.learning_rate",)]


def test_a_sweep_that_is_driven_keeps_its_plan(tmp_path):
    words = [*WORDS, f"sweep.dir={tmp_path}/sweep", "seed=0,1"]
    folder = begin(plans.read(words))
    with (
        folders.driven(folder),
        pytest.raises(ConfigError, match=f"is driven by process {os.getpid()} on .*sweep wait"),
    ):
        begin(plans.read([*words, "sweep.timeout=5"]))
    with Ledger(ledger_of(folder)) as ledger:
        assert recorded(ledger)[0].settings.timeout is None


def test_who_looks_whether_a_sweep_is_driven_keeps_no_driver_out(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "GLANCE", 600.0)  # the timer may come late on a busy machine
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (glance, fcntl.LOCK_UN)).start()
        with folders.driven(tmp_path):
            assert folders.driver_of(tmp_path) == os.getpid()


def test_spreads_and_seeds():
    found = spread_of([1.0, 2.0, 4.0])
    assert (found.mean, found.n) == (pytest.approx(7 / 3), 3)
    assert found.half == pytest.approx(4.303 * found.sd / math.sqrt(3))
    assert math.isnan(spread_of([1.0]).sd)
    assert seed_key([{"seed": 0, "lr": 1}, {"seed": 1, "lr": 1}]) == "seed"
    assert seed_key([{"data.seed": 0}, {"data.seed": 1}]) == "data.seed"
    assert seed_key([{"lr": 1}, {"lr": 2}]) == seed_key([{"seed": 0}]) == ""


@pytest.mark.parametrize(("first", "is_short"), [(6, True), (3, False)])
def test_points_that_end_before_the_search_decides_are_named_once(tmp_path, first, is_short):
    words = [*WORDS, *GRID, "search=halving", "search.sampler=grid", f"search.first={first}", "search.stages=2"]
    done = testing.command("-m", *words, f"sweep.dir={tmp_path}/sweep", "launcher=turn")
    assert done.code == 0, done.err
    assert done.err.count(": the search decides at step 6, and so on no such point\n") == is_short
