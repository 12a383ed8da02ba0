"""Several processes as one run: losses of one process, one writer, one decision, an end when one of them is gone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import framework
from framework import testing
from framework.checkpoints import checkpoint
from framework.checkpoints.folder import steps
from framework.errors import ConfigError
from framework.testing import run_record, series
from tests.faults.peers import free_port

TINY = [
    *testing.TINY,
    "data.classes=8",
    "data.examples=60",
    "model.hidden=[8, 12]",
    "model.classes=8",
    "model.dropout=0.25",
    "train.steps=8",
    "train.log_every=1",
    "train.eval_every=5",
]
ENDLESS = [*TINY, "strategy=sharded", "train.steps=1000000", "train.log_every=100", "train.eval_every=0"]
TAGS = ("train/loss", "train/accuracy", "eval/loss", "eval/accuracy")

RUN = """
import json, sys, framework
*jobs, last = json.loads(sys.argv[1])
for job in jobs:
    if "python" in job:
        exec(job["python"], {"process": int(sys.argv[2])})
    else:
        framework.resume(job["resume"], job["words"]) if "resume" in job else framework.run(job["words"])
sys.argv[1:] = last["words"]
from framework.commands.cli import main
main()
"""


@pytest.fixture
def launch(tmp_path):
    """Start two processes that run the same jobs, the last by the command line."""
    started = []

    def start(*jobs, devices=1, own=((), ()), slurm=None):
        port = free_port()
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        for process in (0, 1):
            place = [f"distributed.coordinator=127.0.0.1:{port}", "distributed.processes=2"]
            place += [f"distributed.process={process}", *own[process]]
            if slurm is not None:
                place = ["distributed=auto"]
                own_number = {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}
                environment = {**environment, **slurm, **own_number, "JAX_COORDINATOR_PORT": str(port)}
            told = [{**job, "words": [*job.get("words", ()), *place]} for job in jobs]
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", RUN, json.dumps(told), str(process)],
                    env=environment,
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def ended(processes, timeout=600):
    """Exit codes, and what each process said on stderr, without what the CPU's transport prints."""
    told = [process.communicate(timeout=timeout)[1].splitlines() for process in processes]
    own = [[line for line in lines if "[Gloo]" not in line and "peer ranks" not in line] for lines in told]
    return [process.returncode for process in processes], own


def until(condition, timeout=600.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def assert_same_losses(folder, reference, tags=TAGS):
    for tag in tags:
        np.testing.assert_allclose(series(folder, tag), series(reference, tag), rtol=1e-5, err_msg=tag)


FSDP = ["strategy=sharded", "strategy.fsdp=2"]
SAVING = ["train.checkpoint_every=4", "callbacks.checkpoint.keep=0"]
CASES = {
    "pmap": ["strategy=pmap"],
    "pmap-single": ["strategy=pmap", "train.steps_per_call=1"],
    "data": ["strategy=sharded"],
    "data-single": ["strategy=sharded", "train.steps_per_call=1"],
    "fsdp": FSDP,
    "fsdp-single": [*FSDP, "train.steps_per_call=1"],
    "pmap-streamed": ["strategy=pmap", "train.resident_mib=0"],
    "data-streamed": ["strategy=sharded", "train.resident_mib=0"],
}


@pytest.mark.parametrize(
    "names",
    [
        ["pmap", "fsdp-single", "data-streamed"],
        pytest.param(["pmap-single", "data", "data-single", "pmap-streamed"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one_with_two_devices(launch, tmp_path, names):
    codes, told = ended(launch(*({"words": [*TINY, *CASES[name], f"run.dir={name}"]} for name in names)))
    assert codes == [0, 0], "\n".join(told[0] + told[1])
    assert told[1] == []
    for name in names:
        reference = framework.run([*TINY, *CASES[name], f"run.dir={tmp_path}/one-{name}"])
        assert_same_losses(tmp_path / name, reference.directory)


POINTS = """
import copy, itertools, json, pathlib
import jax, numpy as np


class Points:
    steps_per_epoch, splits, source, share = 10, ("test",), "points", None
    spec = {"inputs": jax.ShapeDtypeStruct((16, 2, 3, 1), np.float32), "targets": jax.ShapeDtypeStruct((16,), np.int32)}

    def __init__(self, notes):
        self.notes = pathlib.Path(notes)

    def train(self, seed, start=0):
        return (self.made("train", 16, step, seed) for step in itertools.count(start))

    def eval(self, split):
        return (self.made("eval", 12, step) for step in range(2))

    def made(self, kind, size, step, seed=0):
        rows = np.arange(size) if self.share is None else self.share.rows(size)
        self.notes.mkdir(exist_ok=True)
        with (self.notes / f"{kind}{jax.process_index()}").open("a") as notes:
            notes.write(json.dumps([step, rows.tolist()]) + "\\n")
        drawn = [np.random.default_rng([seed, step, row]).normal(size=(2, 3, 1)).astype(np.float32) for row in rows]
        inputs = np.stack(drawn)
        return {"inputs": inputs, "targets": (4 * np.abs(inputs[:, 0, 0, 0])).astype(np.int32) % 8}


class Sharing(Points):
    def restricted(self, share):
        part = copy.copy(self)
        part.share = share
        return part


def points(notes: str): return Points(notes)
def sharing(notes: str): return Sharing(notes)
"""
DRAWN = [
    "model=mlp",
    "model.hidden=[8, 12]",
    "model.classes=8",
    "train.steps=8",
    "train.log_every=1",
    "train.eval_every=5",
    "data.transform=[{gaussian_noise: {scale: 0.5}}]",
]
QUIET = "data.transform=[]"  # noise with pmap is that of as many devices
ALL, FIRST, SECOND = [0, 16], [0, 8], [8, 16]


@pytest.mark.parametrize(
    ("devices", "cases"),
    [
        (
            1,
            [
                (["data=sharing", "strategy=pmap"], FIRST, SECOND),
                (["data=sharing", "strategy=sharded", "strategy.tensor=2"], ALL, ALL),
                (["data=points", "strategy=sharded", "train.accumulate=2"], ALL, ALL),
            ],
        ),
        pytest.param(
            2,
            [
                (["data=sharing", "strategy=pmap", QUIET], FIRST, SECOND),
                (["data=sharing", "strategy=sharded", "train.accumulate=2"], FIRST, SECOND),
                (["data=sharing", *FSDP, "strategy.fsdp=4", "train.steps_per_call=1"], FIRST, SECOND),
                (["data=sharing", *FSDP, "strategy.tensor=2"], FIRST, SECOND),
                (["data=points", "strategy=pmap", "train.steps_per_call=1", QUIET], ALL, ALL),
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_each_process_makes_the_examples_that_its_devices_take(launch, install, monkeypatch, tmp_path, devices, cases):
    entries = {"framework.data": {name: f"acme_points:{name}" for name in ("points", "sharing")}}
    monkeypatch.setenv("PYTHONPATH", str(install("acme", entries, {"acme_points.py": POINTS})))
    jobs = [
        {"words": [*DRAWN, *words, f"run.dir=run{i}", f"data.notes={tmp_path}/notes{i}"]}
        for i, (words, *_) in enumerate(cases)
    ]
    codes, told = ended(launch(*jobs, devices=devices))
    assert codes == [0, 0], "\n".join(told[0] + told[1])
    for i, (words, *expected) in enumerate(cases):
        own = words if devices == 1 else [words[0], "strategy=jit", *[word for word in words if word == QUIET]]
        reference = framework.run([*DRAWN, *own, f"run.dir={tmp_path}/one{i}", f"data.notes={tmp_path}/one-notes{i}"])
        assert_same_losses(tmp_path / f"run{i}", reference.directory)
        for process, (first, last) in enumerate(expected):
            asked = [json.loads(line) for line in (tmp_path / f"notes{i}/train{process}").read_text().splitlines()]
            digested, *asked = asked  # the digest of the whole batch 0 goes into the run's record
            assert digested[0] == 0 and asked == [[step, list(range(first, last))] for step in range(8)]
            seen = [json.loads(line) for line in (tmp_path / f"notes{i}/eval{process}").read_text().splitlines()]
            part = list(range(first * 12 // 16, last * 12 // 16))
            assert seen == [[0, part], [1, part]] * 3  # before the first step, after the fifth, and at the end


def manifest(folder):
    """A checkpoint's manifest without its run's id, and without its own digest, in which that has a part."""
    content = json.loads((folder / "manifest.json").read_text())
    return {name: value for name, value in content.items() if name not in ("run", "sha256")}


def whole_by_numpy(folder):
    """The leaves of a checkpoint, read by NumPy alone; no number of it is written twice."""
    archives = {0: np.load(folder / "arrays.npz")}
    if (folder / "arrays.1.npz").exists():
        archives[1] = np.load(folder / "arrays.1.npz")
    leaves, bytes_written = {}, sum(archive[name].size for archive in archives.values() for name in archive)
    for path, entry in json.loads((folder / "manifest.json").read_text())["leaves"].items():
        if "pieces" not in entry:
            leaves[path] = archives[0][path].view(entry["dtype"]).reshape(entry["shape"])
            continue
        leaves[path] = np.zeros(entry["shape"], entry["dtype"])
        for piece in entry["pieces"]:
            name = f"{path}[{','.join(f'{start}:{stop}' for start, stop in piece['box'])}]"
            content = archives[piece["process"]][name]
            assert hashlib.sha256(content.tobytes()).hexdigest() == piece["sha256"]
            box = tuple(slice(start, stop) for start, stop in piece["box"])
            leaves[path][box] = content.view(entry["dtype"]).reshape(leaves[path][box].shape)
    assert bytes_written == sum(leaf.nbytes for leaf in leaves.values())
    return leaves


def restored(folder):
    """The same, read by this process."""
    leaves = json.loads((folder / "manifest.json").read_text())["leaves"]
    like = {path: jax.ShapeDtypeStruct(entry["shape"], entry["dtype"]) for path, entry in leaves.items()}
    return checkpoint.restore(folder, like, whole=True)


def assert_equal(leaves, others):
    assert leaves.keys() == others.keys()
    for path in leaves:
        np.testing.assert_array_equal(leaves[path], others[path], err_msg=path)


ORBAX = [*FSDP, "callbacks.checkpoint.store=orbax"]
WRITTEN = {
    "fsdp": (FSDP, {"arrays.npz", "arrays.1.npz"}),
    "fsdp-between": ([*FSDP, "callbacks.checkpoint.asynchronous=false"], {"arrays.npz", "arrays.1.npz"}),
    "pmap-single": (CASES["pmap-single"], {"arrays.npz"}),
    "orbax": (ORBAX, {"arrays"}),
}
"""Files by strategy and store: each process writes its shards of a cut state, unless the store cannot."""


@pytest.mark.parametrize("name", ["fsdp", *(pytest.param(n, marks=pytest.mark.slow) for n in [*WRITTEN][1:])])
def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(launch, tmp_path, name):
    case, files = WRITTEN[name]
    words = [*TINY, *case, *SAVING]
    one = framework.run([*words, f"run.dir={tmp_path}/one", "train.steps=4"])
    jobs = [{"words": [*words, "run.dir=whole"]}, {"words": [*words, "run.dir=part", "train.steps=3"]}]
    jobs += [{"resume": "part", "words": ["train.steps=5"]}, {"resume": "one", "words": ["train.steps=8"]}]
    codes, told = ended(launch(*jobs, {"words": [*words, "run.dir=part", "run.resume=auto"]}))
    assert codes == [0, 0], "\n".join(told[0] + told[1])
    whole, part = (steps(tmp_path / name / "checkpoints") for name in ("whole", "part"))
    assert whole == [4, 8] and part == [3, 4, 5, 8]
    saved = [tmp_path / name / "checkpoints" / "8" for name in ("whole", "part")]
    assert manifest(saved[0]) == manifest(saved[1])  # the sha256 of every leaf, or piece of one
    assert_equal(restored(saved[0]), restored(saved[1]))
    for folder in saved:
        assert {path.name for path in folder.iterdir()} == {*files, "manifest.json"}
        if name != "orbax":
            assert_equal(restored(folder), whole_by_numpy(folder))
    entry = run_record(tmp_path / "part")
    assert (entry["status"], entry["resumed"], entry["starts"][-1]["processes"]) == ("done", [3, 5], 2)
    assert framework.load(tmp_path / "part")(np.zeros([2, 6], np.float32)).shape == (2, 8)
    assert "distributed" not in (tmp_path / "part" / "config.yaml").read_text()
    # One process goes on with what two have written, and two with what one has.
    assert int(framework.resume(tmp_path / "part", ["train.steps=10"]).state.step) == 10
    assert steps(one.directory / "checkpoints") == [4, 8]
    assert_same_losses(tmp_path / "one", tmp_path / "whole", TAGS[:2])


TOO_LARGE = """
import resource, sys
sys.dont_write_bytecode = True  # it would be cut short, and stay so for others
limit = {1: 1500, 0: 100_000}[failing]
if process == failing: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
"""


@pytest.mark.parametrize("process", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_save_that_one_process_cannot_write_ends_all_with_one_line(launch, tmp_path, process):
    words = [*TINY, *FSDP, *SAVING, "run.dir=run", "train.steps=4000", "run.compilation_cache=false"]
    words += ["model.hidden=[400,400]"] if process == 0 else []  # larger than its record and its log
    codes, told = ended(launch({"python": f"failing = {process}{TOO_LARGE}"}, {"words": words}))
    assert codes == [5, 5], told
    errors = [[line for line in lines if line.startswith("error[")] for lines in told]
    by = r" by process 1: File too large\." if process else r": File too large\."
    assert len(errors[0]) == 1 and errors[0] == errors[1] == told[1]
    assert re.match(rf"error\[storage\]: checkpoint run/checkpoints/4 cannot be written{by}", errors[0][0])
    assert steps(tmp_path / "run" / "checkpoints") == []
    entry = run_record(tmp_path / "run")
    assert (entry["status"], entry["exit_code"]) == ("failed", 5)


DAMAGE = """
import pathlib
if process == 0:
    file = pathlib.Path("run/checkpoints/8/arrays.1.npz")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 8
    file.write_bytes(content)
"""


def test_a_damaged_piece_leads_all_processes_to_the_checkpoint_before(launch, tmp_path):
    words = [*TINY, *FSDP, *SAVING]
    jobs = [{"words": [*words, "run.dir=whole", "train.steps=12"]}, {"words": [*words, "run.dir=run"]}]
    last = {"words": [*words, "run.dir=run", "train.steps=12", "run.resume=auto"]}
    codes, told = ended(launch(*jobs, {"python": DAMAGE}, last))
    assert codes == [0, 0], "\n".join(told[0] + told[1])
    assert told[1] == [] and any("It is set aside; an older one is tried." in line for line in told[0])
    assert (tmp_path / "run" / "checkpoints" / "8.damaged").is_dir()
    assert run_record(tmp_path / "run")["resumed"] == [4]
    whole, run = (manifest(tmp_path / name / "checkpoints" / "12") for name in ("whole", "run"))
    assert whole == run


MEASURE = """
import atexit, pathlib, tracemalloc
tracemalloc.start()
atexit.register(lambda: pathlib.Path(f"peak{process}").write_text(str(tracemalloc.get_traced_memory()[1])))
"""


@pytest.mark.slow
def test_no_process_holds_more_than_its_pieces_and_one_array(launch, tmp_path):
    words = [*TINY, *FSDP, "model.hidden=[4000, 4000]", "train.checkpoint_every=2", "run.dir=run", "run.resume=auto"]
    for count in (2, 4):  # the second run reads what the first has written
        jobs = [{"python": MEASURE}, {"words": [*words, f"train.steps={count}"]}]
        codes, told = ended(launch(*jobs)[-2:])
        assert codes == [0, 0], "\n".join(told[0] + told[1])
        leaves = json.loads((tmp_path / "run" / "checkpoints" / "2" / "manifest.json").read_text())["leaves"]
        sizes = [4 * math.prod(entry["shape"]) for entry in leaves.values()]
        for process in (0, 1):
            peak = int((tmp_path / f"peak{process}").read_text())
            # What Python itself takes to trace and compile is less than 40 MB.
            assert sum(sizes) // 2 < peak < sum(sizes) // 2 + max(sizes) + 40e6 < sum(sizes) + 40e6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "orbax"])
def test_a_run_that_is_killed_while_it_saves_goes_on_to_the_same_end(launch, tmp_path, name):
    words = [*TINY, *WRITTEN[name][0], "train.steps=400", "train.log_every=100", "train.eval_every=0"]
    words += ["train.checkpoint_every=50", "run.watchdog=20"]
    processes = launch({"words": [*words, "run.dir=run"]})
    until(lambda: len(steps(tmp_path / "run" / "checkpoints")) > 1)
    processes[1].send_signal(signal.SIGKILL)
    assert ended(processes)[0] == [7, -9]
    jobs = [{"words": [*words, "run.dir=whole"]}, {"words": [*words, "run.dir=run", "run.resume=auto"]}]
    codes, told = ended(launch(*jobs)[2:])
    assert codes == [0, 0], "\n".join(told[0] + told[1])
    (start,) = run_record(tmp_path / "run")["resumed"]
    assert 0 < start < 400
    whole, run = (tmp_path / name / "checkpoints" for name in ("whole", "run"))
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert manifest(run / "400") == manifest(whole / "400")


@pytest.mark.slow
def test_two_processes_of_two_devices_give_the_losses_of_one_device(launch, tmp_path):
    rules = ["strategy.rules={1_Dense/W: [null, tensor], 4_Dense/W: [tensor, null]}"]
    cases = {name: CASES[name] for name in ("pmap", "pmap-single", "data", "fsdp", "fsdp-single")}
    cases["tensor"] = ["strategy=sharded", "strategy.tensor=2", *rules]
    words = [*TINY, "model.dropout=0"]
    jobs = [{"words": [*words, *case, f"run.dir={name}"]} for name, case in cases.items()]
    codes, told = ended(launch(*jobs, devices=2))
    assert codes == [0, 0], "\n".join(told[0] + told[1])
    reference = framework.run([*words, f"run.dir={tmp_path}/one"])
    for name in cases:
        assert_same_losses(tmp_path / name, reference.directory)


@pytest.mark.slow
def test_many_steps_of_two_processes_of_two_devices_do_not_hang(launch, tmp_path):
    words = [*TINY, "train.steps=600", "train.log_every=200", "train.eval_every=0", "train.steps_per_call=1"]
    jobs = [{"words": [*words, f"strategy={name}", f"run.dir={name}"]} for name in ("pmap", "sharded")]
    codes, told = ended(launch(*jobs, devices=2))
    assert codes == [0, 0], "\n".join(told[0] + told[1])


@pytest.mark.parametrize(
    ("words", "own", "text"),
    [
        (["strategy=sharded", "data.batch_size=15"], ((), ()), "data.batch_size: 15 does not divide over 2 devices"),
        pytest.param(["strategy=jit"], ((), ()), "take strategy=sharded, or pmap", marks=pytest.mark.slow),
        pytest.param(
            ["strategy=sharded"],
            ((), ("optimizer.learning_rate=0.5",)),
            "process 1 has optimizer.learning_rate 0.5, and process 0 has 0.001",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["strategy=sharded", "strategy.data=1"], ((), ()), "leaves some of 2 devices idle", marks=pytest.mark.slow
        ),
    ],
)
def test_a_refusal_is_one_line_in_every_process(launch, tmp_path, words, own, text):
    codes, told = ended(launch({"words": [*TINY, *words, f"run.root={tmp_path}"]}, own=own))
    assert codes == [2, 2]
    for lines in told:
        assert len(lines) == 1 and lines[0].startswith("error[config]: ") and text in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_settings_of_jax_must_be_those_of_the_first_process(launch, tmp_path):
    own = {"python": "import jax\nif process: jax.config.update('jax_threefry_partitionable', False)"}
    job = {"words": [*TINY, "strategy=sharded", f"run.root={tmp_path}"]}
    codes, told = ended(launch(own, job))
    assert codes == [2, 2]
    for (line,) in told:
        assert "process 1 has jax_threefry_partitionable False, and process 0 has True" in line


BROKEN = """
import functools
from framework.errors import DataError
from framework_data import synthetic
def broken(*args, **kwargs): raise DataError("no such file on this machine.")
if process: synthetic.synthetic = functools.wraps(synthetic.synthetic)(broken)
"""


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_with_its_code_before_the_first_step(launch, tmp_path):
    codes, told = ended(launch({"python": BROKEN}, {"words": [*TINY, "strategy=sharded", f"run.root={tmp_path}"]}))
    assert codes == [4, 4], told
    assert "another process failed (DataError: " in told[0][-1] and "no such file on this machine" in told[0][-1]
    assert told[1][-1].startswith("error[data]: ")


@pytest.mark.parametrize("chunk", ["auto", pytest.param(1, marks=pytest.mark.slow)])
def test_a_signal_to_one_process_stops_all_at_one_step_which_is_saved(launch, tmp_path, chunk):
    processes = launch({"words": [*ENDLESS, "run.dir=run", f"train.steps_per_call={chunk}"]})
    until((tmp_path / "run" / "metrics.jsonl").exists)
    until(lambda: (tmp_path / "run" / "metrics.jsonl").stat().st_size > 0)
    processes[1].send_signal(signal.SIGTERM)
    codes, told = ended(processes)
    assert codes == [143, 143], told
    (step,) = steps(tmp_path / "run" / "checkpoints")
    expected = f"stopped at step {step} by SIGTERM; `framework resume run` goes on from there."
    assert told[0][-1] == expected and told[1] == [expected]
    assert run_record(tmp_path / "run")["step"] == step


@pytest.mark.parametrize(
    ("victim", "number", "text"),
    [
        (0, signal.SIGKILL, "is gone"),
        pytest.param(1, signal.SIGKILL, "another process is gone", marks=pytest.mark.slow),
        pytest.param(0, signal.SIGSTOP, "process 0", marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, "process 1 has not been heard of since step", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_or_is_stuck_ends_the_other_in_one_line(launch, tmp_path, victim, number, text):
    processes = launch({"words": [*ENDLESS, "run.dir=run", "run.watchdog=8"]})
    until((tmp_path / "run" / "metrics.jsonl").exists)
    until(lambda: (tmp_path / "run" / "metrics.jsonl").stat().st_size > 0)
    processes[victim].send_signal(number)
    codes, told = ended([processes[1 - victim]])
    assert codes == [7]
    errors = [line for line in told[0] if line.startswith("error[")]
    assert len(errors) == 1 and errors[0].startswith("error[peer]: ") and text in errors[0]
    assert not any("Traceback" in line or "stack trace" in line for line in told[0])
    if victim == 1:
        entry = run_record(tmp_path / "run")
        assert (entry["status"], entry["exit_code"]) == ("failed", 7)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["distributed.coordinator=127.0.0.1:1"], "processes=None, process=None"),
        (["distributed.coordinator=here"], "expected auto or HOST:PORT"),
        (["distributed=on"], "distributed: expected a mapping"),
        (["run.watchdog=-1"], "run.watchdog"),
    ],
)
def test_half_a_setting_is_refused(tmp_path, words, text):
    with pytest.raises(ConfigError, match=text):
        framework.run([*TINY, f"run.root={tmp_path}", *words])


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "as JAX listens"])
def test_a_port_that_another_program_listens_at_is_refused(tmp_path, shared):
    port = free_port()
    words = [*TINY, f"run.root={tmp_path}", f"distributed.coordinator=127.0.0.1:{port}", "distributed.processes=2"]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigError, match=rf"^distributed\.coordinator: process 0 cannot listen at port {port} "):
            framework.run([*words, "distributed.process=0"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_auto_goes_by_what_slurm_sets(launch, tmp_path):
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    codes, told = ended(launch({"words": [*TINY, "strategy=sharded", "run.dir=run"]}, slurm=slurm))
    assert codes == [0, 0], "\n".join(told[0] + told[1])
    assert run_record(tmp_path / "run")["starts"][-1]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_nobody_joins_ends_in_one_line(tmp_path, process):
    place = [f"distributed.coordinator=127.0.0.1:{free_port()}", "distributed.processes=2"]
    place += [f"distributed.process={process}", "distributed.timeout=3", f"run.root={tmp_path}"]
    command = [sys.executable, "-m", "framework", *TINY, "strategy=sharded", *place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 7
    assert done.stderr.startswith(f"error[peer]: distributed: process {process} did not meet the others in 3 s")
    assert done.stderr.count("\n") == 1


def test_auto_without_a_cluster_is_one_line(tmp_path):
    command = [sys.executable, "-m", "framework", *TINY, f"run.root={tmp_path}", "distributed=auto"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.startswith("error[config]: distributed: auto found neither SLURM")
    assert done.stderr.count("\n") == 1
