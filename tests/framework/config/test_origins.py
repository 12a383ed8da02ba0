"""Errors name the place where a key was set: the file and line that win, or the command line."""

from __future__ import annotations

import pytest

from framework.config.compose import compose, recorded
from framework.errors import ConfigError

FILE = """# @package _global_
defaults:
  - override /schedule: cosine
train:
  steps: 12
  log_every: 3
extend:
  metrics:
    - perplexity
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(FILE)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "key", "place"),
    [
        ([], "train.steps", "mine.yaml:5"),
        ([], "train.log_every", "mine.yaml:6"),
        (["train.log_every=4"], "train.log_every", "the command line"),
        ([], "train.eval_every", "config.yaml:"),
        ([], "schedule", "mine.yaml:3"),
        ([], "schedule=cosine", "mine.yaml:3"),
        ([], "metrics.perplexity.name", "mine.yaml:9"),
        (["metrics+=auc"], "metrics.auc.name", "the command line"),
        ([], "optimizer.name", "adam.yaml:"),
        (["optimizer=sgd"], "optimizer=sgd", "the command line"),
    ],
)
def test_a_key_comes_from_the_file_or_word_that_wins(folder, words, key, place):
    assert place in compose(["+experiment=mine", *words], folder).origins.of(key)


def test_a_key_that_nothing_sets_comes_from_nowhere(folder):
    assert compose(["+experiment=mine"], folder).origins.of("nothing.at.all") == ""


def test_an_error_is_given_the_origin_of_its_key_once(folder):
    config = compose(["+experiment=mine"], folder)
    with pytest.raises(ConfigError) as raised, config.origins.locating(), config.origins.locating():
        raise ConfigError("expected less.", key="train.steps")
    assert raised.value.origin.endswith("mine.yaml:5)")
    assert str(raised.value) == f"train.steps: expected less. {raised.value.origin}"


def test_a_recorded_config_is_resolved_anew_from_its_source(tmp_path):
    path = tmp_path / "mine" / "first" / "config.yaml"
    path.parent.mkdir(parents=True)
    sections = "".join(f"{section}: {{name: x}}\n" for section in ("model", "loss", "optimizer", "data", "strategy"))
    path.write_text(f"{sections}seed: '${{train.steps}}'\ntrain:\n  steps: 3\n")
    config = recorded(path.parent, ["train.steps=5"])
    assert (config.settings.seed, config.name) == (5, "mine")
    assert config.with_values({"train.steps": 7}).values["seed"] == 7
    assert config.origins.of("train.steps") == "(set on the command line)"
    assert recorded(path.parent).origins.of("train.steps").endswith("config.yaml:8)")
