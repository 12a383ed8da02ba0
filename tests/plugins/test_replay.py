"""Eighteen planted faults, each named by `framework replay`: part, layer, operation, line, examples and advice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

import framework
from framework.errors import NumericalError
from framework.testing import command, message
from framework_replay.examples import groups
from framework_replay.operation import innermost_own
from framework_replay.replay import replayed
from framework_replay.report import text

HERE = Path(__file__).parent

BASE = ["data=poisoned", "data.example=17", "data.value=0.5", "model=planted", "optimizer=sgd", "train.steps=4"]
BASE += ["optimizer.learning_rate=0.01", "train.eval_every=0", "train.log_every=0"]
GROUPS = {
    "framework.models": {"planted": "planted:model"},
    "framework.losses": {"planted": "planted:loss"},
    "framework.data": {"poisoned": "planted:poisoned"},
    "framework.optimizers": {"planted": "planted:optimizer"},
}


class Fault(NamedTuple):
    """A planted fault, and what is to be found of it."""

    words: list[str]
    first: str
    path: str
    primitives: str  # any of them
    code: str  # part of the line
    advice: str
    guilty: list[list[int]] | None = None  # indices in the data


FAULTS = {
    "log of 0": Fault(["loss=planted", "loss.kind=log"], "loss", "loss", "log", "-jnp.log(", "log of 0"),
    "0 / 0": Fault(["loss=planted", "loss.kind=quotient"], "loss", "loss", "div", "nothing / nothing", "division by 0"),
    "derivative of a root": Fault(
        ["loss=planted", "loss.kind=distance"], "gradient", "loss", "div mul", "jnp.sqrt(", "root has no derivative"
    ),
    "overflow in bfloat16": Fault(
        ["model.kind=exponential", "precision=bfloat16"],
        "loss",
        "model/1_pair",
        "exp",
        "jnp.exp(",
        "bfloat16 overflows",
    ),
    "inf in the data": Fault(["data.value=inf"], "data", "inputs", "", "", "data.exclude", [[17]]),
    "exploding rate": Fault(
        ["optimizer.learning_rate=1e30"], "loss", "model/1_Dense", "dot_general", "jnp.dot", "learning_rate"
    ),
    "initial scale": Fault(["model.kind=huge"], "loss", "model/1_Huge", "dot_general", "@ params", "initial weights"),
    "gradient alone": Fault(
        ["model.kind=root"], "gradient", "model/1_pair", "mul div", "jnp.sqrt(inputs)", "root has no derivative"
    ),
    "a layer of a stock stack": Fault(
        ["model.kind=stock"], "gradient", "model/1_pair", "mul div", "jnp.sqrt(inputs)", "root has no derivative"
    ),
    "one example of 128": Fault(
        ["model.kind=unit", "data.value=0"], "loss", "model/0_pair", "div", "jnp.linalg.norm", "division by 0", [[17]]
    ),
    "optimizer": Fault(
        ["optimizer=planted", "~optimizer.learning_rate"],
        "update",
        "optimizer",
        "div",
        "grad / (0 * grad)",
        "optimizer's options",
    ),
    "loss": Fault(["loss=planted", "loss.kind=exponential"], "loss", "loss", "exp", "jnp.exp(1e4", "exponential"),
    "constant features": Fault(
        ["model.kind=constant"], "loss", "model/1_BatchNorm", "rsqrt div", "", "variance of a constant feature"
    ),
    "a row of masks": Fault(["model.kind=masked"], "loss", "model/1_pair", "sub exp", "jax.nn.softmax", "-inf alone"),
    "an integer without a vector": Fault(
        ["model.kind=tokens"],
        "loss",
        "model/1_Embedding",
        "",
        "",
        "no vector: found the input 7, expected integers from 0 to 4",
        [[17]],
    ),
    "custom_vjp": Fault(["model.kind=clipped"], "gradient", "model/1_pair", "div", "gradient / ", "custom_vjp"),
}


@pytest.fixture(autouse=True)
def plugins(install):
    return install("planted-faults", GROUPS, {"planted.py": (HERE / "planted.py").read_text()})


def failed(folder, *words):
    with pytest.raises(NumericalError):
        framework.run([*BASE, *words, f"run.dir={folder}"])
    return folder


def check(report, fault):
    found, told = report.found, text(report)
    assert (found.first, found.path) == (fault.first, fault.path), told
    if fault.primitives:
        assert found.operation is not None and found.operation.primitive in fault.primitives.split(), told
        assert fault.code in found.operation.code, told
        if found.direction == "forward":
            (*_, opened) = traceback.extract_tb(innermost_own(found.operation.error.__traceback__))
            assert found.operation.line == f"{opened.filename}:{opened.lineno} in {opened.name}"
    assert any(fault.advice in each for each in report.advice), told
    if fault.guilty is not None:
        rows = report.case.rows
        assert [[int(rows[place]) for place in group] for group in report.guilty or []] == fault.guilty, told


QUICK = ("an integer without a vector", "gradient alone", "one example of 128")


@pytest.mark.parametrize(
    "name", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in FAULTS]
)
def test_a_planted_fault_is_named(tmp_path, name):
    fault = FAULTS[name]
    with jax.debug_nans(False):  # after which the thread heeds no check that is switched on for all
        pass
    check(replayed(failed(tmp_path / "run", *fault.words)), fault)


def test_the_growth_of_an_update_that_was_undone_is_told(tmp_path):
    words = [*BASE, "optimizer.learning_rate=1e30", "nan_policy=skip", "train.steps=2", f"run.dir={tmp_path}/run"]
    framework.run(words)
    (told,) = re.findall(
        r"the updates grew (\S+) times: lower optimizer.learning_rate", text(replayed(tmp_path / "run"))
    )
    assert float(told) > 1e20


@pytest.mark.slow
def test_the_member_that_fails_is_named(tmp_path):
    rates = "[0.1,0.1,0.1,0.1,0.1,1e30,0.1,0.1]"
    words = ["strategy=vmapped", f"strategy.members={{seed: 0-7, optimizer.learning_rate: {rates}}}"]
    result = framework.run([*BASE, *words, f"run.dir={tmp_path}/run"])
    assert result.metrics["train/live_members"] == 7
    report = replayed(tmp_path / "run")
    check(
        report, Fault([], "loss", "model/1_Dense", "dot_general", "jnp.dot", "at step 2: lower optimizer.learning_rate")
    )
    assert report.case.facts.member == 5 and report.case.experiment.members is None


@pytest.mark.slow
def test_the_device_that_fails_is_named(tmp_path, plugins):
    words = [*BASE, "model.kind=unit", "data.value=0", "strategy=pmap", f"run.dir={tmp_path}/run"]
    variables = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(plugins)}
    done = subprocess.run(
        [sys.executable, "-m", "framework", *words], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 6, done.stderr
    report = replayed(tmp_path / "run")
    check(report, FAULTS["one example of 128"])
    assert report.guilty is not None and report.found.device == report.guilty[0][0] // 32


@pytest.mark.parametrize(
    ("strategy", "words", "told"),
    [
        ("pmap", ["model.kind=clipped", "debug=nans"], "invalid value (nan) encountered in reduce_sum"),
        ("vmapped", ["model.kind=clipped", "debug=nans"], "invalid value (nan) encountered in reduce_sum"),
        ("jit", ["model.kind=huge", "debug=infs"], "invalid value (inf) encountered in dot_general"),
    ],
)
def test_debug_names_the_operation_also_behind_a_nan_that_is_only_written_down(tmp_path, strategy, words, told):
    with pytest.raises(NumericalError) as caught:
        framework.run([*BASE, *words, f"strategy={strategy}", f"run.dir={tmp_path}/run"])
    assert message(caught).startswith(f"step 1: {told}; ")
    assert (tmp_path / "run" / "nan").exists() is (strategy != "vmapped")  # the member that would freeze is not known


def test_the_verb_prints_the_report(tmp_path):
    folder = failed(tmp_path / "run", *FAULTS["one example of 128"].words)
    done = command("replay", str(folder / "nan" / "step-1"))
    assert done.code == 0, done.err
    for told in ("first not finite: the loss, in layer 0, model/0_pair", "born in model/0_pair", "reached the loss"):
        assert told in done.out
    assert "(index 17 in the data) of 128" in done.out


@pytest.mark.parametrize("words", [[], ["nowhere"]])
def test_what_holds_no_capsule_is_refused(tmp_path, words):
    done = command("replay", *words)
    assert done.code in (2, 5) and "error[" in done.err


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ([], None),
        ([5], [[5]]),
        ([0, 6], [[0], [6]]),
        (list(range(8)), [list(range(8))]),
    ],
)
def test_bisection_finds_each_guilty_item(bad, found):
    assert groups(lambda items: bool({*items} & {*bad}), 8) == found


def test_bisection_finds_items_that_fail_together():
    assert groups(lambda items: {2, 3} <= {*items}, 8) == [[2, 3]]


SOUND = ["data=synthetic", "data.shape=[6]", "data.examples=64", "data.batch_size=16", "model=mlp", "model.hidden=[8]"]
SOUND += ["optimizer=sgd", "train.steps=3", "train.checkpoint_every=3", "train.eval_every=0", "model.dropout=0"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Folders of a run, and of one with another learning rate."""
    folder = tmp_path_factory.mktemp("sound")
    for name, rate in (("one", 0.1), ("other", 0.2)):
        framework.run([*SOUND, f"optimizer.learning_rate={rate}", f"run.dir={folder}/{name}"])
    return folder


def parted(out):
    return [line.split(" (")[0] for line in out.splitlines() if line.startswith(("first ", "all values"))]


def test_a_step_is_the_same_as_itself(sound):
    done = command("replay", str(sound / "one"), "--against", str(sound / "one"))
    assert parted(done.out) == ["all values are the same, bit by bit"], done.err


def test_the_step_after_a_sound_run_is_told_to_be_sound(sound):
    done = command("replay", str(sound / "one"))
    told, empty, table = done.out.split("\n", 2)
    assert told == "step 4: all is finite; the run met no fault; this is the step after its newest checkpoint, 3"
    assert not empty and "model/1_Dense" in table


def test_two_runs_part_at_their_parameters(sound):
    done = command("replay", str(sound / "one"), "--against", str(sound / "other"))
    assert done.out.startswith(f"step 4 of {sound / 'one'} against step 4 of {sound / 'other'}\n")
    assert parted(done.out) == [
        "first with other bits: forward model params",
        "first beyond rounding: forward model params",
    ]


def test_layers_that_one_alone_has_are_named(sound, tmp_path):
    framework.run([*SOUND, "model.hidden=[8,8]", f"run.dir={tmp_path}/run"])
    done = command("replay", str(sound / "one"), "--against", f"{tmp_path}/run")
    (line,) = [line for line in done.out.splitlines() if line.startswith("in one of them alone: ")]
    assert line.endswith("model/5_Relu, model/6_Dropout, model/7_Dense"), line


@pytest.mark.parametrize(("other", "is_close"), [("strategy=pmap", True), ("precision=bfloat16", False)])
def test_modes_of_one_run_are_compared_on_a_page(sound, tmp_path, other, is_close):
    page = tmp_path / "page.html"
    done = command("replay", str(sound / "one"), "--against", other, "--html", str(page))
    assert done.code == 0, done.err
    found = parted(done.out)
    assert any("beyond rounding" in line for line in found) is not is_close, done.out
    text = page.read_text()
    assert text.startswith("<!doctype html>") and "model/1_Dense" in text and "backward" in text
    assert "src=" not in text and "href=" not in text


def test_a_mistyped_run_to_compare_with_is_refused_with_the_nearest_one(sound):
    done = command("replay", str(sound / "one"), "--against", str(sound / "oone"))
    assert done.code == 5 and "oone is not a run folder: there is no such folder; " in done.err
    assert f"such as {sound / 'one'}." in done.err


def test_a_page_without_a_comparison_is_refused(sound, tmp_path):
    done = command("replay", str(sound / "one"), "--html", f"{tmp_path}/page.html")
    assert done.code == 2 and "--html: the page is that of a comparison; expected --against too." in done.err


def test_a_layer_that_a_step_applies_several_times_is_compared_at_its_first(tmp_path):
    words = ["task=gan", "data=digits", "data.size=8", "data.normalize=false", "data.batch_size=16"]
    words += ["data.train_limit=64", "train.steps=2", "train.eval_every=0", "task.latent=4", "callbacks=[checkpoint]"]
    words += ["generator.layers=[{Dense: 64}]", "discriminator.layers=[Flatten,{Dense: 1}]"]
    words += [f"optimizer@{name}_optimizer=sgd" for name in ("generator", "discriminator")]
    framework.run([*words, f"run.dir={tmp_path}/run"])
    done = command("replay", str(tmp_path / "run"), "--against", "strategy=pmap")
    assert "discriminator/1_Dense" in done.out, done.err
    assert not any("beyond rounding" in line for line in parted(done.out)), done.out
