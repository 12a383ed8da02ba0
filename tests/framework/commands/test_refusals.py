"""Words that cannot be read: refusals in the framework's own words, and texts that are taken as typed."""

from __future__ import annotations

import re

import pytest

from framework import testing
from framework.config.compose import compose

FOREIGN = re.compile(
    r"\b[A-Z]\w*(Exception|Error|Warning|Sweeper|Lexer|Parser|Node|Config)\b|Lexer|ANTLR|Hydra[A-Z]|OmegaConf|\^"
    r"|viable alternative|expecting|INTERVAL_SWEEP|sweep type|Traceback"
)

REFUSED = [  # words, and what the refusal begins with and says
    ("-m seed=interval(1,2)", "seed: ", "range(1,4)"),
    ("-m optimizer.learning_rate=interval(0,1)", "optimizer.learning_rate: ", "list some"),
    ("-m seed=glob(*)", "seed: glob", "'seed' has none"),
    ("-m model=glob(zz*)", "the sweep has no job", "model=glob(zz*)"),
    ("-m seed=range(0,10,0)", "seed: the step", "0"),
    ("-m seed=range(0,0)", "the sweep has no job", "seed=range(0,0)"),
    ("-m --config-dir nowhere seed=1,2", "config_dir: nowhere", "no folder"),
    ("--config-dir nowhere --cfg job", "config_dir: nowhere", "no folder"),
    ("--config-dir nowhere", "config_dir: ", "no folder"),
    ("seed=" + "9" * 5000, "seed: ", "5000 digits"),
    ("train.steps=1000000000000000000", "train.steps: found 1000000000000000000", "steps are counted"),
    ("train.steps=1e18", "train.steps: found 1000000000000000000", "steps are counted"),
    ("model={a", "model={a: a bracket", ""),
    ("seed=1,2,(", "seed=1,2,(: a bracket", ""),
    ("metrics+=a{", "", "a bracket has no partner"),
    ("run.dir=a[1]", "run.dir=a[1]: ", """run.dir="'a[1]'" """.strip()),
    ("model.hidden=[1,,2]", "model.hidden=[1,,2]: ", "cannot be read"),
    ("seed='", "seed=': ", "cannot be read"),
    ('seed="a', 'seed="a: ', "cannot be read"),
    ("1=2", "1=2: expected KEY=VALUE", "seed=1"),
    (".=2", ".=2: expected KEY=VALUE", "seed=1"),
    ("+=3", "", ""),
    ("==", "", ""),
    ("seed=int(x)", "seed=int(x): ", "'x'"),
    ("seed=foo(3)", "seed=foo(3): ", "'foo'"),
    ("seed=choice(1,2)", "", "seed=choice(1,2)"),
    ("seed=${x}", "seed: ", "'x'"),
    ("train=3", "train", ""),
    ("train=null", "train", ""),
    ("model.hidden.a=3", "", ""),
    ("model.hidden.3=3", "", "model.hidden.3=3"),
    ("~foo", "", "'foo'"),
    ("~train", "", "train"),
    ("+model=mlp", "", "model"),
    ("loss=[a,b]", "loss=", ""),
    ("optimizer={a:1}", "", "optimizer"),
    ("train.steps=${train.steps}", "", ""),
    ("model@x=mlp", "model@x", ""),
    ("+debug=nans", "", "debug"),
]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused[0][:40])
def test_a_refusal_names_the_word_and_no_class_of_a_library(tmp_path, monkeypatch, refused):
    words, begins, says = refused
    monkeypatch.chdir(tmp_path)
    done = testing.command(*words.split(" "))
    assert done.code == 2, done
    assert done.err.startswith(f"error[config]: {begins}")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not FOREIGN.search(done.err.removeprefix("error[config]")), done.err


FILES = [
    "? \n: 3\n",
    "null: 3\n",
    "train: [1]\n",
    "train: {null: 3}\n",
    "model: {hidden: {null: [1]}}\n",
    "1: 2\n",
    "defaults: 3\n",
    "defaults: [{override /model: [a]}]\n",
    "defaults: [{3: 4}]\n",
    "defaults: [null]\n",
    "seed: ${a:b}\n",
    "seed: ${\n",
    "seed: '${a.b.c}'\n",
    "train: {steps: '${seed}', epochs: '${train.steps}'}\nseed: '${train.epochs}'\n",
    "model: mlp\n",
    "[1, 2]\n",
    "a: b: c\n",
    "a: [\n",
    "\t- a\n",
    "extend: [1]\n",
    "extend: {seed: [1]}\n",
    "{}: 3\n",
    "[1]: 3\n",
]


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_cannot_be_composed_is_refused_without_a_class_of_a_library(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    done = testing.command("--config-dir", str(tmp_path), "+experiment=mine", f"run.root={tmp_path}/runs")
    assert done.code == 2, done
    assert done.err.count("\n") == 1
    assert not FOREIGN.search(done.err.removeprefix("error[config]").replace("--config-dir", "")), done.err


TEXTS = [
    "äö",
    "日本/語",
    "😀",
    "a#b",
    "it's",
    "a=b",
    "a=b=c",
    "x'y\\'",
    "\\'",
    "a\\",
    "a b~c",
    "a;b&c",
    "<a>",
    "a!b",
    "a^b`",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_as_typed(text):
    config = compose([f"run.dir={text}", "data=arrays", f"data.train={text}", f"++data.eval={text}"])
    assert config.settings.run.dir == config.values["data"]["train"] == config.values["data"]["eval"] == text


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert compose(["run.dir=~/it's"]).settings.run.dir == "/somewhere/it's"
    assert compose(["run.root=~"]).settings.run.root == "/somewhere"


def test_a_run_folder_may_have_an_equals_sign_in_its_path(tmp_path):
    run = tmp_path / "lr=0.1" / "run"
    testing.train(tmp_path, "train.steps=4", f"run.dir={run}")
    assert testing.command("resume", str(run), "train.steps=6").code == 0
    assert testing.records(run)[-1]["step"] == 6
    done = testing.command("train", str(run), f"run.dir={tmp_path}/again", "train.steps=3")
    assert (done.code, testing.records(tmp_path / "again")[-1]["step"]) == (0, 3)
