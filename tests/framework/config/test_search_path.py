"""Configs are found: ours, those of plugin packages, names without a file; and Hydra is left as it was."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, NamespaceLoader
from importlib.util import module_from_spec

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.version import getbase

from framework.commands.plugins import show
from framework.config.compose import compose
from framework.config.search_path import RegistrySource
from framework.errors import ConfigError
from framework.registry.entry_points import discover
from framework.registry.kinds import COMPONENTS, MAPPINGS
from framework.testing import message

WIDE = "def wide(hidden: int = 3):\n    return hidden\n"

EXPERIMENT = """# @package _global_
defaults:
  - override /model: deep
  - override /metrics: [auc]
  - override /loss: theirs
model: {hidden: 7}
train: {steps: 12}
"""


@pytest.fixture
def acme(install):
    """A distribution with a plugin of every group, some with a file, an experiment, and a catalogue."""
    groups = {f"framework.{kind}": {"theirs": "acme_m:wide"} for kind in (COMPONENTS | MAPPINGS).values()}
    groups["framework.models"] |= {"wide": "acme_m:wide", "deep": "acme_m:wide"}
    groups["framework.models.catalogue"] = {"all": "acme_m:catalogue"}
    groups["framework.conf"] = {"acme": "acme_conf"}
    files = {
        "acme_m.py": WIDE + "def catalogue(): return {'found': wide}\n",
        "acme_conf/__init__.py": "",
        "acme_conf/model/deep.yaml": "name: deep\nhidden: 5\ndepth: 2\n",
        "acme_conf/experiment/theirs.yaml": EXPERIMENT,
        "acme_conf/experiment/nested/first.yaml": "# @package _global_\nseed: 11\n",
    }
    install("acme", groups, files)


@pytest.mark.parametrize("section", ["model", "loss", "optimizer", "schedule", "data", "strategy"])
def test_a_registered_name_needs_no_file(acme, section):
    config = compose([f"{section}=theirs", "schedule=theirs"])
    assert config.source[section] == {"name": "theirs"}


def test_default_sections_that_a_task_does_not_take_are_left_out_and_chosen_ones_refused(acme):
    config = compose(["task=theirs", "task.hidden=2"])
    assert config.source["task"] == {"name": "theirs", "hidden": 2}
    assert {"data", "strategy", "callbacks"} <= set(config.source)
    assert not {"model", "loss", "optimizer", "schedule", "metrics"} & set(config.source)
    for words in (["model=deep"], ["model.hidden=7"], ["+experiment=theirs", "task=theirs"]):
        with pytest.raises(ConfigError, match=r"^(model|loss|metrics): task 'theirs' takes no section .*takes none"):
            compose(["task=theirs", *words])


@pytest.mark.parametrize("section", MAPPINGS)
def test_a_registered_tag_needs_no_file(acme, section):
    config = compose([f"{section}=[theirs]"])
    assert config.source[section] == {"theirs": {"name": "theirs"}}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=wide"], {"name": "wide"}),
        (["model=wide", "model.hidden=4"], {"name": "wide", "hidden": 4}),
        (["model=wide", "+model.hidden=4"], {"name": "wide", "hidden": 4}),
        (["model=acme:wide"], {"name": "acme:wide"}),
        (["model=ACME:wide"], {"name": "ACME:wide"}),
        (["model=found"], {"name": "found"}),
        (["model=acme:found"], {"name": "acme:found"}),
        (["model=deep"], {"name": "deep", "hidden": 5, "depth": 2}),
        (["model=deep", "model.depth=3"], {"name": "deep", "hidden": 5, "depth": 3}),
        (["+experiment=theirs"], {"name": "deep", "hidden": 7, "depth": 2}),
        (["+experiment=theirs", "model.hidden=8"], {"name": "deep", "hidden": 8, "depth": 2}),
        (["+experiment=theirs", "model=wide"], {"name": "wide", "hidden": 7}),
    ],
)
def test_what_a_plugin_brings_composes_and_can_be_overridden(acme, words, expected):
    config = compose(words)
    assert config.values["model"] == expected


def test_a_tag_that_names_its_distribution_is_short(acme):
    config = compose(["metrics=[acme:theirs]"])
    assert config.values["metrics"] == {"theirs": {"name": "acme:theirs"}}


@pytest.mark.parametrize(
    ("words", "name"),
    [([], "default"), (["+experiment=theirs"], "theirs"), (["+experiment=nested/first"], "nested_first")],
)
def test_the_experiment_is_named_by_its_config(acme, words, name):
    assert compose(words).name == name


def test_an_experiment_of_a_plugin_package_sets_everything_it_says(acme):
    config = compose(["+experiment=theirs", "seed=5"])
    chosen = config.values["loss"]["name"], list(config.values["metrics"])
    assert (config.settings.seed, config.settings.train.steps, *chosen) == (5, 12, "theirs", ["auc"])
    assert "hydra" not in config.source


def test_nothing_of_a_plugin_remains_once_it_is_gone(acme, monkeypatch):
    compose(["+experiment=theirs"])
    monkeypatch.undo()
    for words in (["+experiment=theirs"], ["model=wide"], ["model=deep"]):
        with pytest.raises(ConfigError, match="no such config"):
            compose(words)


def test_our_own_file_comes_before_a_plugins_of_the_same_name(install):
    files = {"acme_conf/__init__.py": "", "acme_conf/model/mlp.yaml": "name: stolen\n"}
    install("acme", {"framework.conf": {"acme": "acme_conf"}}, files)
    config = compose(["model=mlp"])
    assert config.values["model"]["name"] == "mlp"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'acme_conf'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_broken_package_of_configs_disturbs_nobody_and_is_told(install, text, reason):
    files = {} if text is None else {"acme_conf/__init__.py": text, "acme_conf/experiment/theirs.yaml": EXPERIMENT}
    install("acme", {"framework.conf": {"acme": "acme_conf"}}, files)
    config = compose(["model=mlp"])
    assert config.values["model"]["name"] == "mlp"
    with pytest.raises(ConfigError) as raised:
        compose(["+experiment=theirs"])
    assert "configs 'acme_conf' of acme cannot be imported" in message(raised)
    assert reason in message(raised)
    assert reason in show([])


def test_a_folder_of_configs_that_no_package_shows_disturbs_nobody_and_is_told(install, monkeypatch):
    install("acme", {"framework.conf": {"acme": "acme_conf"}}, {"acme_conf.py": ""})
    hook = ["__editable__.acme.finder.__path_hook__"]  # as an editable install finds a folder without __init__.py
    spec = ModuleSpec("acme_conf", NamespaceLoader("acme_conf", hook, lambda *_: None), is_package=True)
    spec.submodule_search_locations = hook
    monkeypatch.setitem(sys.modules, "acme_conf", module_from_spec(spec))
    assert compose(["model=mlp"]).values["model"]["name"] == "mlp"
    assert "configs 'acme_conf' of acme are no package with an __init__.py" in show([])


def test_a_damaged_distribution_disturbs_nobody(install):
    install("damaged", "[framework.conf]\nacme\n")
    assert compose(["model=mlp"]).values["model"]["name"] == "mlp"


def test_an_experiment_without_its_first_line_is_told_so(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# mine.yaml\n# @package _global_\ndefaults:\n  - override /model: mlp\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="the first line of an experiment's file must be '# @package _global_'"):
        compose(["+experiment=mine"], config_dir=tmp_path)


def test_a_folder_of_ones_own_comes_before_ours(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 9\n")
    config = compose(["+experiment=mine"], config_dir=tmp_path)
    assert (config.settings.seed, config.name) == (9, "mine")
    with pytest.raises(ConfigError, match=r"experiment=mine: no such config\."):
        compose(["+experiment=mine"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["model=mlpp"], "model=mlpp: no such config. Did you mean 'mlp'? Known: "),
        (["model=acmee:wide"], "model=acmee:wide: no such config."),
        (["metrics=[accuracy,theris]"], "metrics=theris: no such config. Did you mean 'theirs'? Known: "),
        (["loss=thers"], "loss=thers: no such config. Did you mean 'theirs'?"),
        (["+experiment=their"], "experiment=their: no such config. Did you mean 'theirs'? Known: "),
        (["experiment=theirs"], "experiment: an experiment is added with a plus: +experiment=theirs"),
        (["debug=nan"], "debug=nan: no such config. Did you mean 'nans'?"),
        (["model=null"], "model=null: no such config. Known: "),
        (["model="], "model=: no such config. Known: "),
        (["sede=1"], "sede: no such section. Did you mean 'seed'? Known: "),
        (["modle=mlp"], "modle: no such section. Did you mean 'model'? Known: "),
        (["+nonsense@x=1"], "nonsense@x=1: a key has no '@'"),
        (["train.steps=[1"], "train.steps=[1: "),
        (["metrics+=[auc"], "metrics+=[auc: a bracket has no partner"),
        (["=3"], "=3: expected KEY=VALUE"),
        (["seed=1,2"], "seed=1,2: found several values, and a run takes one; -m "),
    ],
)
def test_a_choice_that_is_none_is_one_line_with_the_nearest(acme, words, text):
    with pytest.raises(ConfigError) as raised:
        compose(words)
    assert message(raised).startswith(text)
    assert "theirs" in message(raised) or "theirs" not in text


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("cut", "a: [1\n", "cut.yaml"),
        ("tab", "# @package _global_\ntrain:\n\tsteps: 3\n", "tab.yaml"),
        ("twice", "seed: 1\nseed: 2\n", "found duplicate key seed"),
        ("list", "# @package _global_\n- 1\n", "experiment/list"),
        ("defaults", "defaults: 3\n", "'experiment/defaults', defaults must be a list"),
        ("missing", "# @package _global_\ndefaults: [override /model: mlpp]\n", "Did you mean 'mlp'?"),
        (
            "group",
            "# @package _global_\ndefaults: [override /modle: mlp]\n",
            "modle: no such section. Did you mean 'model'?",
        ),
        ("header", "seed: 1\n", "An experiment's file begins with '# @package _global_'."),
        ("empty", "", "An experiment's file begins with '# @package _global_'."),
        ("text", "# @package _global_\nmodel: {hidden: '${a'}\n", "model.hidden: '${a' is no interpolation"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, name, text, told):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        compose([f"+experiment={name}"], config_dir=tmp_path)
    assert told in message(raised)


def test_composing_leaves_nothing_behind_and_works_again():
    first = compose(["seed=1"])
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigError):
        compose(["sede=1"])
    assert not GlobalHydra.instance().is_initialized()
    assert compose(["seed=1"]) == first


def test_composing_inside_an_initialised_hydra_leaves_it_initialised(install):
    files = {"their_app/__init__.py": "", "their_app/app.yaml": "defaults: [_self_, optional model: mlp]\nanswer: 42\n"}
    install("app", {}, files)
    with hydra.initialize_config_module("their_app", version_base="1.2"):
        assert compose(["seed=3"]).settings.seed == 3
        with pytest.raises(ConfigError):
            compose(["sede=3"])
        assert hydra.compose("app") == {"answer": 42}
        assert str(getbase()) == "1.2"
    assert not GlobalHydra.instance().is_initialized()


def test_every_name_without_a_file_is_offered_for_completion(acme):
    source = RegistrySource("registry", "registry://")
    for section, kind in (COMPONENTS | MAPPINGS).items():
        names = {plugin.name for plugin in discover().named(kind)}
        assert set(source.list(section, ObjectType.CONFIG)) == set(source.list(section, None)) == names
        assert source.list(section, ObjectType.GROUP) == []
    assert source.list("experiment", None) == source.list("hydra/launcher", None) == []
