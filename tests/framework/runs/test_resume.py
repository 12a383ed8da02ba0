"""A resumed run is, bit for bit, the run that never stopped."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import framework
from framework import testing
from framework.config.settings import RunSettings
from framework.errors import ConfigError, StorageError
from framework.records.folder import make_directory
from framework.testing import assert_same_bits, records, run_record

WORDS = ["model.dropout=0.25", "train.log_every=2", "train.eval_every=6", "callbacks.checkpoint.keep=0"]
TINY = [*testing.TINY, *WORDS]
PROGRAMS = Path(__file__).parents[2] / "programs"


def train(folder, *overrides):
    return framework.run([*TINY, f"run.dir={folder}", *overrides])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Twenty steps without a stop: five epochs of four batches."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return train(folder, "train.steps=20")


@pytest.fixture(scope="module")
def saving(tmp_path_factory):
    """Copies of the folder of such a run that saved every so many steps."""
    made = {}

    def copy(every, target):
        if every not in made:
            made[every] = tmp_path_factory.mktemp("saving") / "run"
            train(made[every], "train.steps=20", f"train.checkpoint_every={every}")
        shutil.copytree(made[every], target)

    return copy


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 6, 12, 19])
def test_a_resumed_run_equals_one_that_never_stopped(straight, saving, tmp_path, stop):
    # Stopping where a checkpoint is written is what a kill after it comes to: later lines of the log are dropped.
    saving(1, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    for folder in checkpoints.iterdir():
        if int(folder.name) > stop:
            folder.rename(checkpoints / f"{folder.name}.damaged")
    resumed = framework.resume(tmp_path / "run", [f"train.checkpoint_every={stop}"])
    assert_same_bits(resumed.state, straight.state)
    assert records(tmp_path / "run") == records(straight.directory)
    assert resumed.metrics["eval/loss"] == straight.metrics["eval/loss"]
    assert run_record(tmp_path / "run")["resumed"] == [stop]


def test_a_finished_run_is_left_as_it_is(straight):
    before = {
        path: path.stat().st_mtime_ns for path in straight.directory.rglob("*") if path.name not in ("run.log", "lock")
    }
    again = framework.resume(straight.directory)
    assert_same_bits(again.state, straight.state)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_an_override_of_a_finished_run_is_told_to_have_no_effect(straight):
    framework.resume(straight.directory, ["seed=77", "train.log_every=3"], force=True)
    told = (straight.directory / "run.log").read_text()
    assert "nothing is left to do, so that this has no effect: seed (" in told
    assert " to 77), train.log_every (" in told and "train on with more train.steps." in told


def test_a_finished_run_can_be_extended(straight, tmp_path):
    train(tmp_path / "run", "train.steps=12")
    assert int(framework.resume(tmp_path / "run", ["train.epochs=4"]).state.step) == 16
    extended = framework.resume(tmp_path / "run", ["train.steps=20"])
    assert_same_bits(extended.state, straight.state)


def test_a_run_that_a_callback_ended_is_finished(tmp_path):
    early = ["train.steps=60", "callbacks+={early_stopping: {metric: eval/loss, patience: 1, min_delta: 100}}"]
    stopped = train(tmp_path / "run", *early)
    assert int(stopped.state.step) == 12
    assert_same_bits(framework.resume(tmp_path / "run").state, stopped.state)
    assert int(framework.resume(tmp_path / "run", ["train.steps=61"]).state.step) > 12


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of a run of two steps."""
    return train(tmp_path_factory.mktemp("short") / "run", "train.steps=2").directory


@pytest.mark.parametrize("override", ["optimizer.learning_rate=0.1", "data.batch_size=8", "seed=1", "model.hidden=[9]"])
def test_an_override_that_makes_it_another_run_needs_force(short, override):
    with pytest.raises(ConfigError, match=f"{override.split('=')[0]}.*--force"):
        framework.resume(short, [override, "train.steps=4"])


def test_a_key_that_an_older_record_lacks_has_its_default(short, tmp_path):
    run = shutil.copytree(short, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    assert record["config"].pop("freeze") == []
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"freeze \(its default to .*--force"):
        framework.resume(run, ["freeze=['*/b']", "train.steps=4"])
    assert int(framework.resume(run, ["train.steps=4"]).state.step) == 4


def test_a_checkpoint_of_another_model_is_refused_and_kept(short):
    with pytest.raises(StorageError, match=r"1_Dense/W' is float32\[6, 8\], expected float32\[6, 9\]"):
        framework.resume(short, ["model.hidden=[9]", "train.steps=4"], force=True)
    assert [path.name for path in (short / "checkpoints").iterdir()] == ["2"]


@pytest.mark.parametrize("file", ["arrays.npz", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_is_set_aside_and_an_older_one_is_used(straight, saving, tmp_path, file, damage, capfd):
    saving(8, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "20" / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    resumed = framework.resume(tmp_path / "run")
    assert_same_bits(resumed.state, straight.state)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"8", "16", "20"} <= kept
    assert "20.damaged" in kept
    assert "/20" in capfd.readouterr().err


def test_a_checkpoint_under_another_ones_name_is_set_aside(straight, saving, tmp_path, capfd):
    saving(8, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "20")
    shutil.copytree(checkpoints / "8", checkpoints / "20")
    assert_same_bits(framework.resume(tmp_path / "run").state, straight.state)
    assert "/20 holds the state of step 8. It is set aside" in capfd.readouterr().err
    assert (checkpoints / "20.damaged").exists()


def test_a_run_without_a_checkpoint_starts_again(straight, tmp_path):
    shutil.copytree(straight.directory, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "20").rename(tmp_path / "gone")
    assert_same_bits(framework.resume(tmp_path / "run").state, straight.state)


EARLY = ["train.steps=60", "callbacks+={early_stopping: {metric: eval/loss, patience: 1, min_delta: 100}}"]


@pytest.mark.parametrize("words", [["train.steps=12"], EARLY])
def test_a_run_that_is_killed_after_its_last_save_has_ended(tmp_path, words):
    arrays = {"inputs": np.random.default_rng(1).standard_normal((90, 6)).astype(np.float32), "targets": np.arange(90)}
    np.savez(tmp_path / "data.npz", inputs=arrays["inputs"], targets=arrays["targets"] % 3)
    data = ["data=arrays", f"data.train={tmp_path}/data.npz", "data.validation=10", "data.batch_size=16"]
    common = ["data.eval_batch_size=16", "model=mlp", "model.hidden=[8]", *WORDS, "train.checkpoint_every=4"]
    words = [*data, *common, *words]
    straight = framework.run([*words, f"run.dir={tmp_path}/straight"])
    killed = [sys.executable, PROGRAMS / "killed_after_save.py", "12", *words, f"run.dir={tmp_path}/run"]
    done = subprocess.run(killed, check=False, capture_output=True, text=True, env=on_two_devices())
    assert done.returncode == 137, done.stderr
    ended = framework.resume(tmp_path / "run")
    assert_same_bits(ended.state, straight.state)
    assert records(tmp_path / "run") == records(tmp_path / "straight")
    assert "test/loss" in records(tmp_path / "run")[-1]
    found, expected = (run_record(tmp_path / name) for name in ("run", "straight"))
    for key in ("status", "exit_code", "reason", "step"):
        assert found[key] == expected[key]
    assert found["metrics"].keys() == expected["metrics"].keys()
    before = (tmp_path / "run" / "run.json").read_bytes()
    framework.resume(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_auto_starts_a_run_that_was_killed_before_its_first_record(straight, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    with pytest.raises(StorageError, match="holds a run already"):
        train(tmp_path / "run", "train.steps=20")
    assert_same_bits(train(tmp_path / "run", "train.steps=20", "run.resume=auto").state, straight.state)


def test_runs_that_draw_one_name_have_folders_of_their_own(tmp_path, monkeypatch):
    drawn = iter(["1a2b", "1a2b", "3c4d"])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(drawn))
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-120000")
    made = [make_directory(RunSettings(root=str(tmp_path)), "mnist").name for _ in range(2)]
    assert made == ["20260101-120000-1a2b", "20260101-120000-3c4d"]


def test_auto_starts_and_then_goes_on(straight, tmp_path):
    auto = [*TINY, f"run.dir={tmp_path}/run", "run.resume=auto"]
    framework.run([*auto, "train.steps=7"])
    assert_same_bits(framework.run([*auto, "train.steps=20"]).state, straight.state)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["keep=0"], {"2", "4", "6", "8", "10", "12"}),
        (["keep=2"], {"10", "12"}),
        (["keep=1", "keep_every=4"], {"4", "8", "12"}),
        (["keep=1", "best=eval/loss", "mode=max"], {"2", "12"}),
        (["keep=1", "best=eval/loss", "keep_best=2"], {"10", "12"}),
        (["keep=1", "best=eval/loss", "mode=min", "keep_best=2"], {"10", "12"}),
    ],
)
def test_what_is_kept(tmp_path, options, kept):
    chosen = [f"callbacks.checkpoint.{option}" for option in options]
    train(
        tmp_path / "run", "train.steps=12", "train.checkpoint_every=2", "train.eval_every=2", "data.noise=0.5", *chosen
    )
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == kept


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR2, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_during_the_imports_is_one_line(tmp_path, number, code):
    # The second process says when it is about to import the command line.
    script = (
        "import sys, runpy\nsys.meta_path.insert(0, type('Tell', (), {'find_spec': lambda name, *_: tell(name)}))\n"
    )
    script += "def tell(name):\n    name == 'hydra' and print('importing', flush=True)\n"
    script += "runpy.run_module('framework', run_name='__main__')"
    words = [*TINY, f"run.dir={tmp_path}/run"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code
    assert errors == f"stopped by {signal.Signals(number).name}: no step was being made, and nothing was lost.\n"


def on_two_devices():
    """The number of devices is part of what makes the same bits."""
    return {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


def start(folder, *overrides):
    """A run in a process of its own, and its output once the first line of its log is there."""
    words = [*TINY, f"run.dir={folder}", "train.steps=1000000", "train.log_every=10", *overrides]
    process = subprocess.Popen(
        [sys.executable, "-m", "framework", *words], stderr=subprocess.PIPE, text=True, cwd=folder.parent
    )
    deadline = time.monotonic() + 600
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_saves_and_stops(tmp_path, number, code):
    process = start(tmp_path / "run")
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    announced = "Ctrl-C again ends now" if number == signal.SIGINT else "a second signal ends at once"
    *before, ended = errors.splitlines()
    assert any(line.endswith(f"stopping after this step; {announced}") for line in before)
    assert re.fullmatch(
        rf"stopped at step \d+ by {signal.Signals(number).name}; `framework resume \S+` goes on from there.", ended
    )
    assert "Traceback" not in errors and "error" not in errors
    record = run_record(tmp_path / "run")
    (saved,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert record["exit_code"] == code and f"at step {saved} by" in record["reason"]
    reference = train(tmp_path / "straight", f"train.steps={saved + 5}", "train.log_every=10")
    resumed = framework.resume(tmp_path / "run", [f"train.steps={saved + 5}"])
    assert_same_bits(resumed.state, reference.state)
    assert records(tmp_path / "run") == records(tmp_path / "straight")


STUCK = """
import sys, threading
from framework.api import Callback
from framework.config.compose import compose
from framework.experiment import NamedCallback
from framework.runs.run import run

class Stuck(Callback):
    every = 4
    def on_state(self, step, state):
        print("stuck", flush=True)
        threading.Event().wait()

run(compose(sys.argv[1:]), lambda built: built._replace(callbacks=(NamedCallback("s", Stuck(), ""), *built.callbacks)))
"""


@pytest.mark.parametrize(
    ("every", "way"),
    [
        (2, "the newest checkpoint is of step 2: `framework resume run` goes on from there"),
        (0, "no checkpoint was saved"),
    ],
)
def test_a_second_signal_ends_at_once_and_says_from_where_to_go_on(tmp_path, every, way):
    words = [*TINY, "run.dir=run", f"train.checkpoint_every={every}", "callbacks.checkpoint.asynchronous=false"]
    command = [sys.executable, "-c", STUCK, *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=on_two_devices()
    )
    assert process.stdout.readline() == "stuck\n", process.stderr.read()
    process.send_signal(signal.SIGINT)
    while (line := process.stderr.readline()) != "stopping after this step; Ctrl-C again ends now\n":
        assert line
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    text = f"ended at once by SIGINT; {way}."
    assert (process.returncode, errors) == (130, f"{text}\n")
    record = run_record(tmp_path / "run")
    assert (record["status"], record["exit_code"], record["reason"]) == ("interrupted", 130, text)
    assert text in (tmp_path / "run" / "run.log").read_text()
    assert framework.resume(tmp_path / "run").status == "done"


WAITING = ["data=waiting", "model=mlp", "model.hidden=[8]", *WORDS, "train.log_every=1"]


@pytest.fixture
def interrupted(tmp_path, install):
    """Signal a run once it has so many records and waits for data; returns the last line that it said."""
    program = (PROGRAMS / "waiting_data.py").read_text()
    site = install("waiting", {"framework.data": {"waiting": "waiting_data:waiting"}}, {"waiting_data.py": program})

    def run(wait, count, *overrides):
        command = [sys.executable, "-m", "framework", *WAITING, f"run.dir={tmp_path}/run", *overrides]
        environment = {**on_two_devices(), "PYTHONPATH": str(site), "WAIT": wait}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        while not (tmp_path / "run" / "metrics.jsonl").exists() or len(records(tmp_path / "run")) < count:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 143, errors
        return errors.splitlines()[-1]

    return run


def test_a_signal_ends_the_wait_for_data(tmp_path, interrupted):
    said = interrupted("7", 6, "train.steps=20", "train.eval_every=0")
    assert said.startswith("stopped at step 7 by SIGTERM;")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["7"]
    assert [line["step"] for line in records(tmp_path / "run")] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("evaluation", "step", "logged"), [(1, 0, []), (2, 4, [0])])
def test_a_signal_ends_the_wait_for_data_of_an_evaluation_which_is_made_up(
    tmp_path, interrupted, evaluation, step, logged
):
    words = ["train.steps=8", "train.eval_every=4"]
    assert interrupted(f"eval {evaluation}", step, *words).startswith(f"stopped at step {step} by SIGTERM;")
    assert [line["step"] for line in records(tmp_path / "run") if "eval/loss" in line] == logged
    straight = framework.run([*WAITING, *words, f"run.dir={tmp_path}/straight"])
    assert_same_bits(framework.resume(tmp_path / "run").state, straight.state)
    assert records(tmp_path / "run") == records(tmp_path / "straight")


def test_a_signal_ends_a_sweep(tmp_path):
    words = [*TINY, "-m", "seed=1,2", "launcher=turn", f"sweep.dir={tmp_path}/sweep", "train.steps=1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "framework", *words], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    while not list(tmp_path.glob("sweep/runs/*/metrics.jsonl")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1].startswith("stopped at step ")
    assert len(list((tmp_path / "sweep" / "runs").iterdir())) == 1


def test_two_processes_never_share_a_folder(tmp_path):
    process = start(tmp_path / "run")
    try:
        with pytest.raises(StorageError, match=f"in use by process {process.pid} on"):
            framework.resume(tmp_path / "run")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    framework.resume(tmp_path / "run", ["train.steps=3"])
