"""`reproduce`: the same bits from a record, a tolerance where bits cannot be expected, and causes that prevent it."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import yaml

from framework import testing
from framework.records.record import read_record
from framework_verify import conditions

WORDS = ["data=arrays", "data.batch_size=16", "data.eval_batch_size=16", "model=mlp", "model.hidden=[8]"]
WORDS += ["train.steps=6", "train.log_every=2", "train.eval_every=3", "strategy=pmap", "run.compilation_cache=false"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A finished run on two devices, whose data lie in a file beside it."""
    folder = tmp_path_factory.mktemp("recorded")
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(48, 6)).astype(np.float32), np.arange(48, dtype=np.int32) % 10
    np.savez(folder / "data.npz", inputs=inputs, targets=targets)
    done = testing.command(*WORDS, f"data.train={folder}/data.npz", f"run.dir={folder}/run")
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def copied(recorded, tmp_path):
    """A copy of the run that a test may damage; its data are those of the first."""
    return shutil.copytree(recorded, tmp_path / "run")


def edit(run, change):
    """Change the record of a run, as another machine or another day would have written it."""
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))


def edit_config(run, change):
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def set_rate(run, rate):
    """Let the record have another learning rate than the one that made its numbers."""
    edit_config(run, lambda config: config["schedule"].update(value=rate))
    edit(run, lambda record: record["config"]["schedule"].update(value=rate))


def files(run):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.rglob("*") if path.is_file()}


def test_a_run_is_made_again_bit_for_bit_and_its_record_stays_as_it_is(recorded, tmp_path):
    before = files(recorded)
    done = testing.command("reproduce", str(recorded), "--to", str(tmp_path / "again"), "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["verdict"] == "same"
    assert found["differences"] == found["told"] == []
    assert found["again"] == str(tmp_path / "again")
    assert testing.records(recorded) == testing.records(tmp_path / "again")
    assert files(recorded) == before


def test_a_difference_is_named_by_metric_step_and_leaf(copied, tmp_path):
    set_rate(copied, 0.0010001)
    done = testing.command("reproduce", str(copied), "--to", str(tmp_path / "again"))
    assert done.code == 8
    head, *table = done.out.splitlines()
    assert head.startswith("different: ")
    assert any(line.startswith("metrics.jsonl  step 1 ") and "learning_rate" in line for line in table), done.out
    assert any("leaves, first params/1_Dense/W (" in line and "by model 'mlp'" in line for line in table), done.out
    assert "error[different]" in done.err
    assert "metrics.jsonl, step 1: train/learning_rate: " in done.err


@pytest.mark.parametrize(("tolerance", "verdict", "code"), [("0.01", "inside", 0), ("0", "differs", 8)])
def test_values_are_held_against_a_tolerance_where_versions_differ(copied, tmp_path, tolerance, verdict, code):
    set_rate(copied, 0.0010001)
    edit(copied, lambda record: record["versions"].update(numpy="1.0"))
    words = ("--to", str(tmp_path / "again"), "--tolerance", tolerance, "--json")
    done = testing.command("reproduce", str(copied), *words)
    found = json.loads(done.out)
    assert (done.code, found["verdict"]) == (code, verdict)
    (reason,) = [each["text"] for each in found["told"] if each["is_of_bits"]]
    assert reason == f"numpy was 1.0, and is {np.__version__}"
    assert done.err.index("not as in the record: numpy was 1.0") < done.err.index("epoch ")
    assert f"the tolerance of {100 * float(tolerance):g} %" in found["figures"]


@pytest.mark.parametrize(("width", "verdict", "code"), [(1e-3, "inside", 0), (1e-12, "differs", 8)])
def test_last_metrics_are_held_against_the_spread_of_three_seeds(copied, tmp_path, width, verdict, code):
    set_rate(copied, 0.0010001)
    edit(copied, lambda record: record["versions"].update(numpy="1.0"))
    for seed, sign in ((1, -1), (2, 1)):  # what two other seeds might have given
        sibling = shutil.copytree(copied, copied.parent / f"seed{seed}")
        record = json.loads((sibling / "run.json").read_text())
        record["metrics"] = {tag: value * (1 + sign * width) for tag, value in record["metrics"].items()}
        record["config"]["seed"] = record["seed"] = seed
        (sibling / "run.json").write_text(json.dumps(record))
    shutil.copytree(copied, copied.parent / "twin")  # of the same seed, which tells nothing
    done = testing.command("reproduce", str(copied), "--to", str(tmp_path / "again" / "run"), "--json")
    found = json.loads(done.out)
    assert (done.code, found["verdict"]) == (code, verdict)
    assert f"the range of 3 seeds in {tmp_path}" in found["figures"]
    assert ("outside of" in found["figures"]) == (verdict == "differs")


def flipped(path):
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_data(run):
    np.savez(run / "other.npz", inputs=np.ones((48, 6), np.float32), targets=np.arange(48, dtype=np.int32) % 10)
    rename_data(run, "other.npz")


def rename_data(run, name):
    edit_config(run, lambda config: config["data"].update(train=str(run / name)))
    edit(run, lambda record: record["config"]["data"].update(train=str(run / name)))


CAUSES = {
    "damaged record": (lambda run: (run / "run.json").write_text("{"), 5, "its run.json cannot be read"),
    "no config": (lambda run: (run / "config.yaml").unlink(), 5, "has no config.yaml"),
    "no log": (lambda run: (run / "metrics.jsonl").unlink(), 5, "there is nothing to compare with"),
    "damaged log": (lambda run: flipped(run / "metrics.jsonl"), 5, "do not match their checksums"),
    "damaged checkpoint": (lambda run: flipped(*run.glob("checkpoints/6/*.npz")), 5, "checkpoints/6"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints" / "6"), 5, "no checkpoint of the last step, 6"),
    "not finished": (
        lambda run: edit(run, lambda record: record.update(status="stopped", exit_code=143, step=4)),
        2,
        "is not finished: it is 'stopped' at step 4 of 6",
    ),
    "several processes": (lambda run: edit(run, lambda record: record["starts"][0].update(processes=2)), 2, "2 proc"),
    "other devices": (
        lambda run: edit(run, lambda record: record["starts"][0].update(devices=["0", "1", "2"])),
        2,
        "'pmap' takes all devices: the run had 3, and there are 2",
    ),
    "masked secret": (
        lambda run: edit_config(run, lambda config: config["callbacks"].update(web={"name": "web", "token": "***"})),
        2,
        "set it with callbacks.web.token=",
    ),
    "other config": (lambda run: edit_config(run, lambda config: config.update(seed=5)), 2, "seed (0 to 5)"),
    "missing distribution": (
        lambda run: edit(run, lambda record: record["plugins"]["model"].update(distribution="acme", version="0.3")),
        3,
        "model: the run had 'mlp' of acme 0.3, which is not installed",
    ),
    "missing plugin": (lambda run: edit_config(run, lambda config: config["model"].update(name="gone")), 2, "'gone'"),
    "other plugin": (
        lambda run: edit(run, lambda record: record["plugins"]["model"].update(target="acme:mlp")),
        3,
        "and the run had 'acme:mlp'",
    ),
    "other sources": (
        lambda run: edit(run, lambda record: record["plugins"]["model"].update(sources="0" * 64)),
        3,
        "has other sources than in the run: their digest was 000000000000",
    ),
    "missing data": (lambda run: rename_data(run, "gone.npz"), 4, "gone.npz"),
    "other data": (other_data, 4, "split 'test' is not that of the run: its digest was"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_run_that_cannot_be_made_again_says_why_and_makes_nothing(copied, tmp_path, cause):
    change, code, because = CAUSES[cause]
    change(copied)
    done = testing.command("reproduce", str(copied), "--to", str(tmp_path / "again"), "--json")
    found = json.loads(done.out)
    assert (found["verdict"], found["code"], done.code) == ("cannot", code, code), done.err
    assert because in found["because"]
    assert done.err.splitlines()[-1].startswith("error[")
    assert not (tmp_path / "again").exists()


def test_what_is_not_as_in_the_record_is_told_of_code_packages_host_and_resumes(recorded):
    record = read_record(recorded)
    start = record.starts[0]
    start.update(git={"commit": "a" * 40, "dirty": True, "patch": "code-1.patch"}, python="3.10.0")
    start["variables"]["XLA_NOTE"] = "1"
    record.packages.update({f"other{i}": "1" for i in range(8)} | {"jax-plugin": "0.1"})
    record.starts.append({**start, "typed": "framework resume run train.steps=6", "from_step": 4})
    told = conditions.code_and_machine(record, ())
    texts = [each.text for each in told]
    assert texts[0].startswith("code was commit aaaaaaaaaaaa with changes (code-1.patch), and is ")
    assert ("jax-plugin was 0.1, and is none", True) in told
    assert any(text.startswith("packages other0 (1 to none), ") and text.endswith("2 more") for text in texts)
    assert any(text.startswith("python was 3.10.0, and is ") for text in texts)
    assert "XLA_NOTE was 1, and is none" in texts
    assert texts[-1].startswith("the run went on at step 4 by `framework resume run train.steps=6`")


WEB = """
from framework.api import Callback

def web(token: str):
    assert token == "opensesame"
    return Callback()
"""


def test_a_secret_that_is_not_recorded_is_given_again_and_stays_off_the_disk(install, tmp_path):
    install("acme", {"framework.callbacks": {"web": "acme_web:web"}}, {"acme_web.py": WEB})
    secret = ("callbacks.web.token=opensesame",)
    testing.train(tmp_path, "train.steps=2", f"run.dir={tmp_path}/run", "callbacks={web: {name: web}}", *secret)
    words = ("reproduce", f"{tmp_path}/run", "--to", f"{tmp_path}/again")
    refused, done = testing.command(*words), testing.command(*words, *secret)
    assert (refused.code, done.code) == (2, 0), done.err
    assert "set it with callbacks.web.token=" in refused.err
    assert done.out.startswith("same bits: ")
    assert not any(b"opensesame" in path.read_bytes() for path in tmp_path.glob("again/*") if path.is_file())
