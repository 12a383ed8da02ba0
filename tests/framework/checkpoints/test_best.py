"""The best checkpoints are those that the metric itself calls better; what cannot be compared is refused at once."""

from __future__ import annotations

import pytest

from framework import testing
from framework.errors import ConfigError

SAVING = ["train.steps=24", "train.checkpoint_every=3", "train.eval_every=3", "callbacks.checkpoint.keep=1"]

ACME = """
from framework.api import Metric

def dull():
    return lambda outputs, batch: outputs.max(axis=-1)

def numbered():
    return Metric(lambda outputs, batch: outputs.max(axis=-1), lambda total, count: {"": 1.0, "0": 2.0})

def keen():
    return Metric(lambda outputs, batch: outputs.max(axis=-1), lambda total, count: float(total / count), False)
"""
METRICS = {name: f"acme_best:{name}" for name in ("dull", "numbered", "keen")}


@pytest.mark.parametrize(
    ("tag", "mode", "best"),
    [
        ("eval/accuracy", "auto", max),
        ("eval/loss", "auto", min),
        ("train/loss", "auto", min),
        ("eval/accuracy", "min", min),
        ("eval/confusion/recall_1", "auto", max),
    ],
)
def test_the_best_is_kept(tmp_path, tag, mode, best):
    words = [f"callbacks.checkpoint.best={tag}", f"callbacks.checkpoint.mode={mode}", "metrics=[accuracy,confusion]"]
    result = testing.train(tmp_path, *SAVING, *words)
    values = {record["step"]: record[tag] for record in testing.records(result) if tag in record and record["step"]}
    wanted = best(values, key=lambda step: values[step])  # of equal ones the first
    kept = {int(path.name) for path in (result.directory / "checkpoints").iterdir()}
    assert kept == {wanted, 24}


@pytest.mark.parametrize(
    ("option", "overrides"),
    [
        ("callbacks.checkpoint: best", ["callbacks.checkpoint.best=TAG"]),
        ("callbacks.early_stopping: metric", ["callbacks+={early_stopping: {metric: TAG}}"]),
    ],
)
@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("eval/acuracy", "this run logs no 'eval/acuracy'. Did you mean 'eval/accuracy'?"),
        ("validation/loss", "this run logs no 'validation/loss'."),
        ("test/loss", "'test/loss' is measured after training; watch eval/loss."),
        (
            "eval/dull",
            "'eval/dull' does not say which way is better; set mode=min if low values are good, or mode=max.",
        ),
        (
            "eval/confusion/recal_1",
            "this run logs no 'eval/confusion/recal_1'. Did you mean 'eval/confusion/recall_1'?",
        ),
    ],
)
def test_a_tag_that_cannot_be_compared_is_refused(tmp_path, install, option, overrides, tag, text):
    install("acme", {"framework.metrics": METRICS}, {"acme_best.py": ACME})
    words = [word.replace("TAG", tag) for word in overrides]
    with pytest.raises(ConfigError) as caught:
        testing.train(tmp_path, *SAVING, "metrics=[accuracy,confusion,dull]", *words)
    message = testing.message(caught)
    assert message.startswith(f"{option}") and text in message and message.endswith("(set on the command line)")
    # Suffixes of a metric are known once it was measured.
    assert not (tmp_path / "default").exists() or tag.startswith("eval/confusion/")
    assert not list(tmp_path.glob("default/*/checkpoints/*"))


def test_a_metric_of_a_plugin_declares_its_direction(tmp_path, install):
    install("acme", {"framework.metrics": METRICS}, {"acme_best.py": ACME})
    words = ["metrics=[keen]", "callbacks.checkpoint.best=eval/keen"]
    result = testing.train(tmp_path, *SAVING, *words)
    values = {
        record["step"]: record["eval/keen"]
        for record in testing.records(result)
        if "eval/keen" in record and record["step"]
    }
    kept = {int(path.name) for path in (result.directory / "checkpoints").iterdir()}
    assert kept == {min(values, key=lambda step: values[step]), 24}


def test_members_do_not_overwrite_a_number_of_a_metric(tmp_path, install):
    install("acme", {"framework.metrics": METRICS}, {"acme_best.py": ACME})
    words = ["strategy=vmapped", "strategy.members=2", "metrics=[numbered]", "train.steps=2"]
    with pytest.raises(ConfigError, match=r"metrics.numbered: its number '0' has the tag of a member"):
        testing.train(tmp_path, *words)
