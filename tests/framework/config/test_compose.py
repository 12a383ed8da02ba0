"""The length of a run, in steps or epochs, by where it is set."""

from __future__ import annotations

import pytest

from framework.config.compose import compose
from framework.errors import ConfigError
from framework.testing import message

FILE = "# @package _global_\ntrain: {steps: 7, epochs: 5}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (7, 5)),  # where a file has both, steps decide
        (["train.steps=9"], (9, 5)),
        (["train.epochs=2"], (None, 2)),  # of the command line, in the place of the file's steps
        (["train.epochs=null", "train.steps=9"], (9, None)),
        (["train.epochs=null"], (7, None)),
        (["train.steps=null", "train.epochs=2"], (None, 2)),
        (["train.steps=null"], (None, 5)),
    ],
)
def test_a_length_is_that_of_the_nearest_place(tmp_path, words, expected):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(FILE)
    train = compose(["+experiment=mine", *words], tmp_path).settings.train
    assert (train.steps, train.epochs) == expected


@pytest.mark.parametrize("words", [["train.epochs=null"], ["train.epochs=null", "train.steps=null"]])
def test_a_run_without_a_length_is_refused(words):
    with pytest.raises(ConfigError) as raised:
        compose(words)
    text = "train.epochs: it is null, and so is train.steps; set one of the two. (set on the command line)"
    assert message(raised) == text
