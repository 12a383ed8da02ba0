"""Configs that are composed from kept files equal those that Hydra composes alone, in values, origins and errors."""

from __future__ import annotations

import os
import re

import hydra
import pytest
from omegaconf import OmegaConf

from framework.config import search_path
from framework.config.compose import compose
from framework.config.overrides import rewrite
from framework.errors import ConfigError
from framework.sweeps.points import content_of, hash_of
from framework.testing import message

MINE = "# @package _global_\ndefaults: [mnist]\ntrain: {steps: 7}\noptimizer: {weight_decay: 0.1}\n"
LONG = "# @package _global_\ntrain: {steps: 9, log_every: 3}\n"

WORDS = [
    [],
    ["seed=3", "optimizer.learning_rate=0.1", "run.dir=it's #1"],
    ["model.hidden=[8,9]", "model={hidden: [16]}", "train.steps=5"],
    ["model={hidden: [16]}", "model.hidden=[8,9]"],  # the last one wins
    ["optimizer.learning_rate=0.2", "optimizer=sgd"],  # a file goes before any value
    ["seed=1", "ema=0.9", "seed=2", "train.steps=4"],
    ["train.steps=4", "ema=0.9", "train.log_every=${train.steps}"],
    ["train.steps=4", "freeze=[a]", "seed=5"],
    ["+variant=long", "train.log_every=2"],
    ["train.log_every=2", "+variant=long"],
    ["metrics=[auc]", "metrics.auc.name=auc", "callbacks=[views]"],
    ["~optimizer.learning_rate", "optimizer={name: sgd, momentum: 0.9}"],
    ["+train.accumulate=2", "++train.accumulate=3", "train.epochs=2"],
    ["debug=fast", "debug.limit=3", "hydra.verbose=true"],
    ["data.transform.normalize.mean=0.5", "seed=0"],
]

WRONG = [
    ["seed=3", "no.such=1"],
    ["seed=3", "+train.steps=1"],
    ["~train.no_such", "seed=1"],
    ["train.steps.no=1", "model=no_such"],
    ["~train.log_every=77"],
    ["train.steps=${no.such}"],
    ["seed=x"],
    ["train.log_evry=1"],
    ["optimizer.learning_rate=[1", "seed=1"],
    ["+variant=none", "train.stps=1"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("configs")
    for name, text in {"experiment/mine": MINE, "variant/long": LONG}.items():
        (found / name).parent.mkdir()
        (found / f"{name}.yaml").write_text(text)
    return found


@pytest.fixture(scope="module")
def kept():
    return {}


def by_hydra(words, folder):
    """Compose all at once."""
    with search_path.session({}), hydra.initialize_config_module("framework_conf", version_base="1.3"):
        composed = hydra.compose("config", [*rewrite(words), f"hydra.searchpath=['file://{folder}']"])
        return OmegaConf.to_container(composed)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
@pytest.mark.parametrize("experiment", ["mine", "cartpole"])
def test_a_config_of_kept_files_is_the_whole_config(folder, kept, experiment, words):
    words = [f"+experiment={experiment}", *words]
    try:
        whole = compose(words, folder)
    except ConfigError as error:  # what one experiment has, another may lack
        with pytest.raises(ConfigError, match=re.escape(str(error))):
            compose(words, folder, kept)
        return
    compose(words, folder, kept)
    found = compose(words, folder, kept)
    assert found == whole
    assert list(found.origins.files) == list(whole.origins.files)
    assert hash_of(content_of(found)) == hash_of(content_of(whole))
    expected = by_hydra(words, folder)
    sections = {name: part for name, part in whole.source.items() if name in expected}
    assert sections == {name: expected[name] for name in sections}
    for key in ("train.steps", "optimizer"):
        assert found.origins.of(key) == whole.origins.of(key)


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_mistake_is_told_alike(folder, kept, words):
    words = ["+experiment=mine", *words]
    compose(["+experiment=mine"], folder, kept)
    with pytest.raises(ConfigError) as whole:
        compose(words, folder)
    for _ in range(2):
        with pytest.raises(ConfigError) as found:
            compose(words, folder, kept)
        assert message(found) == message(whole)
        assert (found.value.key, found.value.origin) == (whole.value.key, whole.value.origin)


def test_a_file_that_changes_is_read_again(folder, kept):
    def steps():
        return compose(["+experiment=mine", "seed=1"], folder, kept).settings.train.steps

    path = folder / "experiment" / "mine.yaml"
    assert steps() == 7
    path.write_text(MINE.replace("7", "8"))
    os.utime(path, (1, 1))
    assert steps() == 8
    path.write_text(MINE)
    assert steps() == 7


def test_no_point_changes_what_is_kept(folder, kept):
    first = compose(["+experiment=mine", "seed=1", "model.hidden=[4]", "~train.log_every"], folder, kept)
    other = compose(["+experiment=mine", "seed=1"], folder, kept)
    first.source["train"]["log_every"] = -1
    assert other.settings.train.steps == 7
    assert compose(["+experiment=mine", "seed=1"], folder, kept) == other
