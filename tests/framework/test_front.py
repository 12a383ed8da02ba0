"""The names that `import framework` offers, without importing what is behind them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import framework
from framework import errors


def test_names_are_listed_and_each_is_there():
    assert {"run", "resume", "load", "Result", "Trained", "FrameworkError", "__version__"} <= set(dir(framework))
    assert all(hasattr(framework, name) for name in dir(framework))
    assert framework.FrameworkError is errors.FrameworkError
    assert framework.__version__ == version("framework")


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'framework' has no attribute 'trian'"):
        _ = framework.trian


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("lr", ["b1", "l2", "learning_rate"], " Did you mean 'learning_rate'? Known: b1, l2, learning_rate."),
        ("WD", ["decay", "weight_decay"], " Did you mean 'weight_decay'? Known: decay, weight_decay."),
        ("lr", ["learning_rate", "loss_ratio"], " Known: learning_rate, loss_ratio."),
        ("r", ["rate_of", "seed"], " Known: rate_of, seed."),
        ("stepz", ["steps", "s"], " Did you mean 'steps'? Known: s, steps."),
    ],
)
def test_a_word_is_answered_by_the_nearest_name_or_by_that_of_its_initials(word, known, hint):
    assert errors.nearest(word, known) == hint


def test_the_error_and_the_version_import_no_jax():
    program = "import sys, framework; framework.FrameworkError, framework.__version__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
