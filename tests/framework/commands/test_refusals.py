"""Words that cannot be read: refusals in the framework's own words, and texts that are taken as typed."""

from __future__ import annotations

import re

import pytest

from framework import testing
from framework.config.compose import compose

FOREIGN = re.compile(
    r"\b[A-Z]\w*(Exception|Error|Warning|Sweeper|Lexer|Parser|Node|Config)\b|Lexer|ANTLR|Hydra[A-Z]|OmegaConf|\^"
    r"|viable alternative|expecting|INTERVAL_SWEEP|sweep type|Traceback|--multirun|[Cc]onfig group"
    r"|positional|type argument|type annotation|[Oo]verride \+|Could not|force-add|literal for int"
)

REFUSED = [  # words, and what the refusal begins with and says
    ("-m seed=interval(1,2)", "seed: ", "range(1,4)"),
    ("-m optimizer.learning_rate=interval(0,1)", "optimizer.learning_rate: ", "search=random"),
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
    ("data.train=a[1]", "data.train=a[1]: ", """data.train="'a[1]'" """.strip()),
    ("-m run.dir=a(1)", "run.dir=a(1): 'a' is no function", """run.dir="'a(1)'" """.strip()),
    ("model.hidden=[1,,2]", "model.hidden=[1,,2]: ", "cannot be read"),
    ("seed='", "seed=': ", "cannot be read"),
    ('seed="a', 'seed="a: ', "cannot be read"),
    ("1=2", "1=2: expected KEY=VALUE", "seed=1"),
    (".=2", ".=2: expected KEY=VALUE", "seed=1"),
    ("+=3", "", ""),
    ("==", "", ""),
    ("seed=int(x)", "seed=int(x): ", "int(1.0)"),
    ("seed=foo(3)", "seed=foo(3): ", "'foo' is no function"),
    ("seed=rnage(1,4)", "seed=rnage(1,4): ", "Did you mean 'range'?"),
    ("seed=1,2", "seed=1,2: found several values, and a run takes one; -m runs a job for each (set", ""),
    ("seed=sort(2,1)", "seed=sort(2,1): found several values", "-m"),
    ("seed=range(3)", "seed=range(3): found several values", "-m"),
    ("model=glob(*)", "model=glob(*): found several values", "-m"),
    ("model=mlp,cnn", "model=mlp,cnn: found several values", "-m"),
    ("metrics=auc,f1", "metrics=auc,f1: found several values", "a list is metrics=[auc,f1]"),
    ("data.train=a,b", "data.train=a,b: found several values", """data.train="'a,b'" """.strip()),
    ("model.hidden=1,2", "model.hidden=1,2: found several values", "a list is model.hidden=[1,2]"),
    ("train RUN -m seed=1,2", "RUN: a sweep, or a view of a config", "+experiment=mnist"),
    ("train RUN --cfg job", "RUN: a sweep, or a view of a config", "+experiment=mnist"),
    ("--cfg job seed=1,2", "seed=1,2: found several values", "-m"),
    ("seed=choice(1,2)", "", "seed=choice(1,2)"),
    ("seed=${x}", "seed: ", "'x'"),
    ("train=3", "train", ""),
    ("train=null", "train", ""),
    ("model.hidden.a=3", "", ""),
    ("~foo", "", "'foo'"),
    ("~train", "", "train"),
    ("+model=mlp", "", "model"),
    ("loss=[a,b]", "loss=", ""),
    ("train={a:1}", "train.a: section 'train' has no option 'a'", "steps"),
    ("foo={a:1}", "foo: no such section", "loss"),
    ("train.steps=${train.steps}", "", ""),
    ("model@x=mlp", "model@x", ""),
    ("+debug=nans", "", "debug"),
]

EITHER = [  # words that neither a run nor a sweep takes
    ("=3", "=3: expected KEY=VALUE", "seed=1"),
    ("+=a", "=a: expected KEY=VALUE", "seed=1"),
    ("++=", "=: expected KEY=VALUE", "seed=1"),
    ("~", "~: expected KEY=VALUE", "seed=1"),
    ("~=", "~=: expected KEY=VALUE", "seed=1"),
    ("+++seed=1", "seed=1: expected KEY=VALUE", "seed=1"),
    ("+~seed=1", "~seed=1: expected KEY=VALUE", "seed=1"),
    ("a:b=1", "a:b=1: expected KEY=VALUE", "seed=1"),
    ("a..b=1", "a..b=1: expected KEY=VALUE", "seed=1"),
    ("précision=1", "précision=1: expected KEY=VALUE", "seed=1"),
    ("@seed=1", "@seed=1: expected KEY=VALUE", "seed=1"),
    ("model@a@b=mlp", "model@a@b=mlp: expected KEY=VALUE", "seed=1"),
    ("model@x.y=mlp", "model@x.y=mlp: a key has no '@'", "model=NAME"),
    ("+model@x=mlp", "x: no such section", ""),
    ("seed@=1", "seed@=1: a key has no '@'", ""),
    ("~model@x", "~model@x: a key has no '@'", ""),
    ("seed=choice()", "seed=choice(): ", "choice(1,2)"),
    ("seed=range(a)", "seed=range(a): ", "range(1,4)"),
    ("seed=range(1,2,3,4)", "seed=range(1,2,3,4): ", "range(1,4)"),
    ("seed=sort()", "seed=sort(): ", "sort(2,1)"),
    ("seed=sort(1,2,by=foo)", "seed=sort(1,2,by=foo): ", "sort(2,1)"),
    ("seed=glob(1)", "seed=glob(1): ", "glob(*)"),
    ("seed=tag(a,b)", "seed=tag(a,b): ", "tag(mine,choice(1,2))"),
    ("seed=bool(x)", "seed=bool(x): ", "bool(1)"),
    ("model.layers+=Dense(3)", "model.layers+=Dense(3): ", "{Dense: 3}"),
    ("model.hidden=(1,2)", "model.hidden=(1,2): ", "model.hidden=[1,2]"),
    ("model.hidden=[choice(1,2)]", "model.hidden=[choice(1,2)]: ", "cannot hold a sweep"),
    ("model.hidden[0]=1", "model.hidden[0]=1: ", "model.hidden.0=…"),
    ("model.hidden.9=1", "model.hidden.9: ", "give all of model.hidden=…"),
    ("model.hidden.a=1", "'a' is no place in a list", "numbers"),
    ("optimizer.groups={'0_*':3}", "optimizer.groups={'0_*':3}: ", "no quotes: optimizer.groups={0_*:3}"),
    ('optimizer.groups={a:1,"b":2}', "optimizer.groups=", "no quotes: optimizer.groups={a:1,b:2}"),
    ("metrics+=[", "metrics+=[: a bracket has no partner", "[1,2]"),
    ("metrics+=,", "metrics+=,: the value cannot be read", "[1,2]"),
    ("model=[mlp,cnn]", "model=[mlp,cnn]: expected one name, found 2", "a run has one model"),
    ("model=[{a:1}]", "model=[{a:1}]: expected names", "model=[NAME]"),
    ("model=1e5", "model=1e5: no such config", "mlp"),
    ("model=a/b", "model=a/b: no such config", "mlp"),
    ("+model=mlp", "model: it is chosen already", "model=NAME"),
    ("++model=mlp", "model=mlp: expected model=NAME", "++"),
    ("+seed=1", "seed: it is set already", "seed=…"),
    ("~seed=3", "~seed: it is 0; ~seed alone removes it. (set on the command line)", ""),
    ("~model=foo", "~model=foo: there is no 'model=foo' to remove", ""),
    ("~train.steps", "~train.steps: there is no 'train.steps' to remove", ""),
    ("seed=${steps:a}", "seed: ", "${steps:0.1}"),
    ("seed=${oc.env:}", "seed: ", "${oc.env:HOME}"),
]


@pytest.mark.parametrize("refused", [*REFUSED, *EITHER], ids=lambda refused: refused[0][:40])
def test_a_refusal_names_the_word_and_no_class_of_a_library(tmp_path, monkeypatch, refused):
    words, begins, says = refused
    monkeypatch.chdir(tmp_path)
    done = testing.command(*words.split(" "))
    assert done.code == 2, done
    assert done.err.startswith(f"error[config]: {begins}")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not FOREIGN.search(done.err.removeprefix("error[config]")), done.err


@pytest.mark.parametrize("refused", EITHER, ids=lambda refused: refused[0][:40])
def test_a_sweep_refuses_what_a_run_refuses(tmp_path, monkeypatch, refused):
    word, begins, says = refused
    monkeypatch.chdir(tmp_path)
    done = testing.command("-m", word)
    assert done.code == 2, done
    assert done.err.startswith(f"error[config]: {begins}")
    assert says in done.err
    assert not FOREIGN.search(done.err.removeprefix("error[config]")), done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", [word for word, _, _ in EITHER if "=" in word and "model" not in word])
def test_a_recorded_run_refuses_what_a_run_refuses(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\nmodel: {name: mlp, hidden: [4]}\n")
    done = testing.command("train", str(tmp_path), word)
    assert done.code == 2, done
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


@pytest.mark.parametrize("place", ["a,b", "a[1]", "[a]", "{a}", "a(b)", "a,b{c}[d](e)", "f(x)/g,h", "a]", "a:b{"])
def test_the_place_of_a_run_is_taken_as_typed(place):
    settings = compose([f"run.dir=x/{place}", f"run.root={place}"]).settings
    assert settings.run[:2] == (place, f"x/{place}")


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert compose(["run.dir=~/it's"]).settings.run.dir == "/somewhere/it's"
    assert compose(["run.root=~"]).settings.run.root == "/somewhere"


def test_a_run_folder_may_have_an_equals_sign_in_its_path(tmp_path):
    run = tmp_path / "lr=0.1" / "a,b{c}[d](e)" / "run"
    testing.train(tmp_path, "train.steps=4", f"run.dir={run}")
    assert testing.command("resume", str(run), "train.steps=6").code == 0
    assert testing.records(run)[-1]["step"] == 6
    done = testing.command("train", str(run), f"run.dir={tmp_path}/again", "train.steps=3")
    assert (done.code, testing.records(tmp_path / "again")[-1]["step"]) == (0, 3)
