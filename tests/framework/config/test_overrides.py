"""The user's words as Hydra's overrides, and that Hydra reads the result as it was meant."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from framework.config.compose import compose
from framework.config.overrides import chosen, rewrite
from framework.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["seed=1"], ["seed=1"]),
        (["model=mlp"], ["model=mlp"]),
        (["+experiment=mnist"], ["+experiment=mnist"]),
        (["+experiment=mine/first"], ["+experiment=mine/first"]),
        (["metrics=[accuracy,auc]"], ["metrics=[accuracy,auc]"]),
        (["~metrics.accuracy"], ["~metrics.accuracy"]),
        (["-m", "--cfg", "job"], ["-m", "--cfg", "job"]),
        (["--config-dir=a.b/c=d"], ["--config-dir=a.b/c=d"]),
        (["optimizer.b1=0.8"], ["++optimizer.b1=0.8"]),
        (["model={hidden: [8]}"], ["++model={hidden: [8]}"]),
        (["model.layers.0.Dense=3"], ["++model.layers.0.Dense=3"]),
        (["metrics.top-3.k=3"], ["++metrics.top-3.k=3"]),
        (["+optimizer.b1=0.8"], ["+optimizer.b1=0.8"]),
        (["++optimizer.b1=0.8"], ["++optimizer.b1=0.8"]),
        (["optimizer.learning_rate=0.1,0.2"], ["++optimizer.learning_rate=0.1,0.2"]),
        (["run.name=a=b"], ["++run.name='a=b'"]),
        (["run.name=a+=b"], ["++run.name='a+=b'"]),
        (["hydra.sweep.dir=x"], ["hydra.sweep.dir=x"]),
        (["metrics+=auc"], ["++extend.metrics=[auc]"]),
        (["metrics+=[auc,perplexity]"], ["++extend.metrics=[auc,perplexity]"]),
        (["metrics+= [auc] "], ["++extend.metrics=[auc]"]),
        (["metrics+={top: {k: 3}}"], ["++extend.metrics=[{top: {k: 3}}]"]),
        (["metrics+=auc", "metrics+=[top]"], ["++extend.metrics=[auc,top]"]),
        (["model.layers+=[Relu,{Dense: 10}]"], ["++extend.model.layers=[Relu,{Dense: 10}]"]),
        (["model.layers+=[[1,2],[3]]"], ["++extend.model.layers=[[1,2],[3]]"]),
        (["metrics+=auc", "seed=1", "callbacks+=b"], ["seed=1", "++extend.metrics=[auc]", "++extend.callbacks=[b]"]),
        (["+experiment=3"], ["+experiment='3'"]),
        (["debug=nan"], ["debug='nan'"]),
        (["+experiment=-1.5E3"], ["+experiment='-1.5E3'"]),
        (["model=null"], ["model='null'"]),
        (["seed=3"], ["seed=3"]),
        (["-m", "+experiment=1,2"], ["-m", "+experiment=1,2"]),
        (["train.epochs=2"], ["++train.epochs=2", "++train.steps=null"]),
        (["++train.epochs=2", "++train.steps=null"], ["++train.epochs=2", "++train.steps=null"]),
        (["train.epochs=1,2", "seed=1"], ["++train.epochs=1,2", "seed=1", "++train.steps=null"]),
        (["train.steps=2"], ["++train.steps=2"]),
        (["train.epochs=null", "train.steps=2"], ["++train.epochs=null", "++train.steps=2"]),
        (["train.epochs=null"], ["++train.epochs=null"]),
        (["train.steps=null", "train.epochs=2"], ["++train.steps=null", "++train.epochs=2"]),
        (["train.epochs=NULL", "train.steps=2"], ["++train.epochs=NULL", "++train.steps=2"]),
        (["train.epochs=2", "~train.steps"], ["++train.epochs=2", "~train.steps"]),
    ],
)
def test_words_become_hydras_overrides(words, expected):
    assert rewrite(words) == expected


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("metrics+=[auc,{top: {k: 3}}]", "extend.metrics", ["auc", {"top": {"k": 3}}]),
        ("model.layers+=[{Conv: [16, [5, 5]]}, Relu]", "extend.model.layers", [{"Conv": [16, [5, 5]]}, "Relu"]),
        ("data.transform+={random_shift: {pixels: 2}}", "extend.data.transform", [{"random_shift": {"pixels": 2}}]),
        ("metrics+=[]", "extend.metrics", []),
        ("metrics.top-3.k=3", "metrics.top-3.k", 3),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", 1e-3),
        ("+experiment=007", "experiment", "007"),
        ("debug=nan", "debug", "nan"),
        ("data.root='/a b/c,d'", "data.root", "/a b/c,d"),
    ],
)
def test_hydra_reads_what_was_meant(word, key, value):
    (override,) = OverridesParser.create().parse_overrides(rewrite([word]))
    assert (override.key_or_group, override.value()) == (key, value)


def test_a_length_in_steps_and_in_epochs_is_refused():
    with pytest.raises(ConfigError, match=r"^train\.epochs: train\.steps is given too"):
        rewrite(["+train.steps=5", "train.epochs=2"])


@pytest.mark.parametrize(("words", "length"), [([], (1872, 3)), (["train.epochs=2"], (None, 2))])
def test_epochs_of_the_command_line_take_the_place_of_an_experiments_steps(words, length):
    train = compose(["+experiment=mnist", *words]).settings.train
    assert (train.steps, train.epochs) == length


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["+experiment=mnist", "seed=2"], {"experiment": "mnist", "seed": "2"}),
        (["metrics+=perplexity"], {"metrics+": "perplexity"}),
        (["train.epochs=1"], {"train.epochs": "1"}),
        (["train.steps=5", "train.epochs=null"], {"train.steps": "5", "train.epochs": "null"}),
    ],
)
def test_what_was_chosen_is_what_was_typed(words, expected):
    assert chosen(rewrite(words)) == expected
