"""The composed config as the core reads it: sections, types, ranges, extensions and interpolations."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from framework.config.resolve import changed, extended, resolved, settings_of, tagged
from framework.config.settings import Debug, Distributed, RunSettings, Train
from framework.errors import ConfigError
from framework.registry.kinds import GROUPS, KINDS, MAPPINGS
from framework.testing import message

NAMED = ("model", "loss", "optimizer", "schedule", "data", "strategy")
WHOLE = {section: {"name": "x"} for section in NAMED}
WHOLE |= {"task": {"name": "supervised"}, "metrics": {"accuracy": {}}, "callbacks": {}}


def test_sections_left_out_have_their_defaults():
    settings = settings_of(WHOLE)
    assert settings == (0, Train(), RunSettings(), Distributed(), Debug(), "stop", "float32", None, None, ())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"seed": 3}, 3),
        ({"seed": 3.0}, 3),
        ({"nan_policy": "ignore"}, "ignore"),
        ({"train": {"steps": 10, "log_every": 0}}, Train(steps=10, log_every=0)),
        ({"train": {"steps": 1e3}}, Train(steps=1000)),
        ({"train": {"steps": None}}, Train()),
        ({"train": {"steps": 40, "epochs": None}}, Train(steps=40, epochs=None)),
        (
            {"train": {"epochs": 2, "eval_every": 7, "checkpoint_every": 1}},
            Train(epochs=2, eval_every=7, checkpoint_every=1),
        ),
        ({"run": {"root": "x", "dir": None, "name": "y"}}, RunSettings("x", None, "y")),
        ({"debug": {"nans": True}}, Debug(nans=True)),
    ],
)
def test_sections_of_the_core_are_read(given, expected):
    settings = settings_of(WHOLE | given)
    assert getattr(settings, *given) == expected
    assert type(getattr(settings, *given)) is type(expected)


@pytest.mark.parametrize("section", MAPPINGS)
def test_metrics_and_callbacks_may_be_none(section):
    assert settings_of(WHOLE | {section: None}) == settings_of({k: v for k, v in WHOLE.items() if k != section})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"modle": {}}, "modle: no such section. Did you mean 'model'? Known: "),
        ({"sede": 1}, "sede: no such section. Did you mean 'seed'?"),
        ({"hydra": {}}, "hydra: no such section. Known: "),
        ({"model": None}, "model: expected a mapping, found None; choose one with model=NAME."),
        ({"model": "mlp"}, "model: expected a mapping, found 'mlp'; choose one with model=NAME."),
        ({"metrics": ["accuracy"]}, "metrics: expected a mapping, found ['accuracy'];"),
        ({"train": 3}, "train: expected a mapping, found 3."),
        ({"train": {"stepz": 3}}, "train.stepz: section 'train' has no option 'stepz'. Did you mean 'steps'? Known: "),
        ({"train": {"steps": "abc"}}, "train.steps: expected int or null, found 'abc' (str)."),
        ({"train": {"steps": True}}, "train.steps: expected int or null, found True (bool)."),
        ({"train": {"steps": 1.5}}, "train.steps: expected int or null, found 1.5 (float)."),
        ({"train": {"epochs": None}}, "train.epochs: it is null, and so is train.steps; set one of the two."),
        ({"train": {"epochs": "x"}}, "train.epochs: expected int or null, found 'x' (str)."),
        ({"train": {"steps": 0}}, "train.steps: expected at least 1, found 0."),
        ({"train": {"steps": -1}}, "train.steps: expected at least 1, found -1."),
        ({"train": {"epochs": 0}}, "train.epochs: expected at least 1, found 0."),
        ({"train": {"log_every": -1}}, "train.log_every: expected at least 0, found -1."),
        ({"train": {"eval_every": -1}}, "train.eval_every: expected at least 0, found -1."),
        ({"train": {"checkpoint_every": -5}}, "train.checkpoint_every: expected at least 0, found -5."),
        ({"run": {"dri": "x"}}, "run.dri: section 'run' has no option 'dri'. Did you mean 'dir'?"),
        ({"run": {"root": None}}, "run.root: expected str, found None (NoneType)."),
        ({"run": {"name": 7}}, "run.name: expected str or null, found 7 (int). Quoted twice it is a text: run.name="),
        ({"debug": {"nan": True}}, "debug.nan: section 'debug' has no option 'nan'. Did you mean 'nans'?"),
        ({"debug": {"nans": 1}}, "debug.nans: expected bool, found 1 (int)."),
        ({"debug": None}, "debug: expected a mapping, found None."),
        ({"seed": -1}, "seed: expected 0 to 4294967295, found -1."),
        ({"seed": 2**32}, "seed: expected 0 to 4294967295, found 4294967296."),
        ({"experiment": {"seed": 1}}, "experiment: no such section. An experiment's file begins with '# @package _glo"),
        ({"seed": None}, "seed: expected int, found None (NoneType)."),
        ({"seed": "one"}, "seed: expected int, found 'one' (str)."),
        (
            {"nan_policy": "stopp"},
            "nan_policy: expected one of 'stop', 'skip', 'rollback', 'ignore', found 'stopp' (str). Did you mean",
        ),
    ],
)
def test_an_unknown_or_wrong_setting_is_one_line_with_its_key(given, text):
    with pytest.raises(ConfigError) as raised:
        settings_of(WHOLE | given)
    assert message(raised).startswith(text)


@pytest.mark.parametrize("section", [*NAMED, "task"])
def test_every_component_must_be_chosen(section):
    with pytest.raises(ConfigError, match=f"^{section}: .* choose one with {section}=NAME"):
        settings_of({name: value for name, value in WHOLE.items() if name != section})


def test_every_group_has_a_kind_that_plugins_register():
    assert set(GROUPS.values()) <= set(KINDS)


BASE = """
seed: 1
train: {steps: null}
model: {name: serial, layers: [Relu, {Dense: 10}], width: 3}
metrics: {accuracy: {}}
schedule: {name: piecewise, boundaries: ["${steps:0.3}"], half: "${steps:0.5}"}
callbacks: null
"""


def after(extend):
    config = OmegaConf.create(BASE)
    config["extend"] = OmegaConf.create(extend) if isinstance(extend, dict) else extend
    return extended(config)


@pytest.mark.parametrize(
    ("extend", "section", "expected"),
    [
        ({"model": {"layers": ["Flatten"]}}, "model", ["Relu", {"Dense": 10}, "Flatten"]),
        ({"model": {"layers": [{"Conv": {"size": [3, 3]}}, "Relu"]}}, "model", None),
        ({"model": {"layers": "Flatten"}}, "model", ["Relu", {"Dense": 10}, "Flatten"]),
        ({"model": {"layers": []}}, "model", ["Relu", {"Dense": 10}]),
        ({"metrics": ["perplexity"]}, "metrics", {"accuracy": {}, "perplexity": {}}),
        ({"metrics": "perplexity"}, "metrics", {"accuracy": {}, "perplexity": {}}),
        ({"metrics": [{"top": {"k": 3}}, "auc"]}, "metrics", {"accuracy": {}, "top": {"k": 3}, "auc": {}}),
        ({"metrics": [{"top": None}]}, "metrics", {"accuracy": {}, "top": {}}),
        ({"metrics": [{"accuracy": {"name": "top"}}]}, "metrics", {"accuracy": {"name": "top"}}),
        ({"callbacks": ["progress"]}, "callbacks", {"progress": {}}),
        ({"schedule": {"boundaries": [7]}}, "schedule", ["${steps:0.3}", 7]),
        ({"schedule": {"boundaries": ["${steps:0.6}"]}}, "schedule", ["${steps:0.3}", "${steps:0.6}"]),
        (None, "seed", 1),
        ({}, "seed", 1),
    ],
)
def test_extending_appends_to_lists_and_adds_to_mappings(extend, section, expected):
    found = after(extend)
    if expected is None:
        expected = ["Relu", {"Dense": 10}, *extend["model"]["layers"]]
    changed = {"model": "layers", "schedule": "boundaries"}.get(section)
    assert (found[section][changed] if changed else found[section]) == expected
    assert "extend" not in found
    untouched = OmegaConf.to_container(OmegaConf.create(BASE), resolve=False)
    assert {k: v for k, v in found.items() if k != section} == {k: v for k, v in untouched.items() if k != section}


@pytest.mark.parametrize(
    ("extend", "text"),
    [
        (
            {"model": {"width": [4]}},
            "model.width: expected a list or a mapping to extend, found 3; set it with model.w",
        ),
        ({"model": {"depth": [4]}}, "model.depth: expected a list or a mapping to extend, found None; set it with"),
        ({"modle": {"layers": ["Relu"]}}, "modle.layers: expected a list or a mapping to extend, found None;"),
        ({"seed": [4]}, "seed: expected a list or a mapping to extend, found 1;"),
        ({"metrics": [3]}, "metrics: expected a name or {name: options} to extend it with, found 3."),
        ({"metrics": [{"a": {}, "b": {}}]}, "metrics: expected a name or {name: options} to extend it with, found"),
        ({"metrics": [["a"]]}, "metrics: expected a name or {name: options} to extend it with, found ['a']."),
        (3, "extend: expected a mapping, found 3."),
        (["x"], "extend: expected a mapping, found ['x']."),
    ],
)
def test_what_cannot_be_extended_is_one_line_with_its_key(extend, text):
    with pytest.raises(ConfigError) as raised:
        after(extend)
    assert message(raised).startswith(text)


def test_extending_leaves_the_config_it_was_given_as_it_was():
    config = OmegaConf.create(BASE)
    config["extend"] = {"metrics": ["auc"], "model": {"layers": ["Relu"]}}
    before = OmegaConf.to_container(config, resolve=False)
    extended(config)
    assert OmegaConf.to_container(config, resolve=False) == before


@pytest.mark.parametrize(
    ("share", "steps", "expected"),
    [(0.1, 1000, 100), (0.1, 14, 1), (0.5, 3, 2), (1, 7, 7), (0, 7, 0), (0.333, 1000, 333), (0.1, None, None)],
)
def test_a_share_of_the_steps_is_rounded_and_unknown_while_they_are(share, steps, expected):
    config = {"train": {"steps": steps}, "schedule": {"warmup": f"${{steps:{share}}}"}}
    assert resolved(config)["schedule"]["warmup"] == expected


def test_a_share_follows_the_steps_also_where_a_list_was_extended():
    config = OmegaConf.create(BASE)
    config["extend"] = {"schedule": {"boundaries": ["${steps:0.6}"]}}
    source = changed(extended(config), {"train.steps": 200})
    assert resolved(source)["schedule"] == {"name": "piecewise", "boundaries": [60, 120], "half": 100}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"a": {"b": "${c.d}"}}, "a.b: nothing sets 'c.d', which it takes; set c.d=…"),
        ({"a": [{"b": "${c}"}]}, "a[0].b: nothing sets 'c', which it takes; set c=…"),
        ({"a": "${steps:0.1}", "train": {"steps": "x"}}, "a: "),
        ({"a": "${steps:many}", "train": {"steps": 3}}, "a: '${steps:many}': expected a share of train.steps"),
        ({"a": "${stepz:0.1}"}, "a: a config cannot call the resolver 'stepz'. Did you mean 'steps'?"),
        ({"a": "${a}"}, "a: its interpolations lead back to themselves"),
        ({"data": {"train": "???"}}, "data.train: it has no default; set it with data.train=…"),
    ],
)
def test_what_cannot_be_resolved_is_one_line_with_its_key(config, text):
    with pytest.raises(ConfigError) as raised:
        resolved(config)
    assert message(raised).startswith(text)


def test_plain_is_plain_all_the_way_down():
    assert resolved({"a": [{"b": "${c}"}], "c": {"d": 1}}) == {"a": [{"b": {"d": 1}}], "c": {"d": 1}}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"accuracy": {}}, {"accuracy": {"name": "accuracy"}}),
        ({"top3": {"name": "top_k", "k": 3}}, {"top3": {"name": "top_k", "k": 3}}),
        ({"accuracy": None, "auc": {}}, {"auc": {"name": "auc"}}),
        ({3: {}}, {"3": {"name": "3"}}),
    ],
)
def test_a_tag_is_the_name_unless_it_is_told_and_null_removes_it(section, expected):
    assert tagged(section, "metrics") == expected
    assert list(tagged({"b": {}, "a": {}}, "metrics")) == ["b", "a"]


@pytest.mark.parametrize("options", [3, "x", [1], True])
def test_a_tag_holds_options(options):
    with pytest.raises(ConfigError) as raised:
        tagged({"accuracy": options}, "metrics")
    assert message(raised) == f"metrics.accuracy: expected options such as {{}}, found {options!r}."
