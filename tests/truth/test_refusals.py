"""A setup that cannot give a right number is refused, in one line that names the key, the place and the fix."""

from __future__ import annotations

import numpy as np
import pytest

import framework
from framework.errors import FrameworkError
from tests.truth.runs import save, train

RANDOM = np.random.default_rng(0)
SHORT = ["data=arrays", "model=mlp", "model.hidden=[4]", "train.steps=2", "data.batch_size=4", "data.eval_batch_size=4"]

FIELDS = "{inputs: inputs, targets: targets, weights: weights}"


def refused(folder, *overrides):
    """Run, and return the refusal in words."""
    with pytest.raises(FrameworkError) as caught:
        train(folder / "run", *SHORT, *overrides)
    return str(caught.value)


def data_of(folder, targets, test=None, **more):
    """Files of eight examples with these targets, as overrides."""
    count = len(targets)
    inputs = RANDOM.normal(size=(count, 3))
    overrides = [f"data.train={save(folder, 'train', inputs=inputs, targets=targets, **more)}"]
    if test is not None:
        overrides += [f"data.test={save(folder, 'test', inputs=inputs[: len(test)], targets=np.array(test))}"]
    return overrides


TAGS = ["loss", "learning_rate", "loss_scale", "skipped", "live_members", "examples_per_second"]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_of_the_cores_own_is_refused(tmp_path, tag):
    text = refused(
        tmp_path, *data_of(tmp_path, np.arange(8) % 2), f"metrics.{tag}={{name: accuracy}}", "model.classes=2"
    )
    assert text.startswith(f"metrics.{tag}: ")


def test_a_tag_of_a_scheduled_hyperparameter_is_refused(tmp_path):
    scheduled = [
        "optimizer=adamw",
        "optimizer.weight_decay={name: linear, init_value: 0.1, end_value: 0.0, transition_steps: 2}",
    ]
    tag = ["metrics.weight_decay={name: accuracy}", "model.classes=2"]
    text = refused(tmp_path, *data_of(tmp_path, np.arange(8) % 2), *scheduled, *tag)
    assert text.startswith("metrics.weight_decay: the run logs its own")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss=squared_error", "metrics=[accuracy]"], ["metrics.accuracy: ", "real numbers", "metrics=[mse]"]),
        (["loss=squared_error", "metrics=[auc]"], ["metrics.auc: ", "metrics=[mse]"]),
        (["loss=huber", "metrics=[perplexity]"], ["metrics.perplexity: ", "classes", "real", "metrics=[mse]"]),
        (["loss=binary_cross_entropy", "metrics=[r2]"], ["metrics.r2: ", "real", "binary", "accuracy"]),
        (["loss=binary_cross_entropy", "metrics=[huber]"], ["metrics.huber: ", "real", "binary"]),
        (["loss=binary_cross_entropy", "metrics=[confusion]"], ["metrics.confusion: ", "classes", "binary"]),
        (["metrics=[subset_accuracy]"], ["metrics.subset_accuracy: ", "binary", "classes"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_metric_refuses_other_targets_than_its_own(tmp_path, overrides, words):
    text = refused(tmp_path, *data_of(tmp_path, np.arange(8) % 2), "model.classes=2", *overrides)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("targets", "test", "overrides", "words"),
    [
        ([0, 1, 2, 3, 0, 1, 2, 0], None, ["model.classes=3"], ["train.npz, row 4", "target 3", "0 to 2"]),
        ([0, 1, 2, -1, 0, 1, 2, 0], None, ["model.classes=3"], ["train.npz, row 4", "target -1", "0 to 2"]),
        ([0, 1, 2, 1, 0, 1, 2, 0], [0, 5, 1], ["model.classes=3"], ["split 'test'", "test.npz, row 2", "target 5"]),
        ([0, 1, 2, -100, 0, 1, 2, 7], None, ["model.classes=3", "loss.ignore_index=-100"], ["row 8", "7", "-100"]),
        ([1, 2, 1, 2, 1, 2, 1, 2], None, ["loss=binary_cross_entropy", "model.classes=1"], ["target 2", "from 0 to 1"]),
        ([1, -1, 1, 1, 1, 1, 1, 1], None, ["loss=binary_cross_entropy", "model.classes=1"], ["row 2", "target -1"]),
        ([[0.5, 0.4]] * 8, None, ["model.classes=2"], ["[0.5, 0.4", "sum to 1"]),
        ([[1.5, -0.5]] * 8, None, ["model.classes=2"], ["from 0 that sum to 1"]),
    ],
    ids=["beyond", "negative", "in the test split alone", "not the ignored one", "1 and 2", "-1 and 1", "0.9", "-0.5"],
)
def test_targets_that_a_loss_cannot_take_are_refused_by_place(tmp_path, targets, test, overrides, words):
    text = refused(tmp_path, *data_of(tmp_path, np.array(targets), test), *overrides)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.array([1, 1, -2, 1, 1, 1, 1, 1.0]), ["row 3 (index 2)", "found the weight -2.0", "a finite number from 0"]),
        (np.zeros(8), ["all of its", "weights are 0, expected one above 0"]),
        (np.full(8, 1e-38), ["all of its", "weights are 0, expected one above 0"]),
        (np.ones((8, 1)), ["1], expected one number for each example"]),
    ],
    ids=["negative", "zero", "subnormal", "column"],
)
def test_weights_of_which_no_mean_can_be_taken_are_refused(tmp_path, weights, words):
    overrides = data_of(tmp_path, np.arange(8) % 2, weights=weights)
    text = refused(tmp_path, *overrides, f"data.fields={FIELDS}", "model.classes=2")
    assert all(word in text for word in words), text


def test_examples_of_weight_0_may_hold_anything(tmp_path):
    targets, weights = np.array([0, 1, 9, 1, 0, 1, 0, 1]), np.array([1, 1, 0, 1, 1, 1, 1, 1.0])
    overrides = data_of(tmp_path, targets, weights=weights)
    run = train(tmp_path / "run", *SHORT, *overrides, f"data.fields={FIELDS}", "model.classes=2")
    assert np.isfinite(run.last("eval/accuracy"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.learning_rate=nan"], ["optimizer.learning_rate: ", "found nan"]),
        (["optimizer.learning_rate=-0.1"], ["optimizer.learning_rate: ", "a number from 0, found -0.1"]),
        (["schedule=cosine", "optimizer.learning_rate=inf"], ["optimizer.learning_rate: ", "a finite number"]),
        (["schedule.value=-1"], ["schedule: value of ", "a number from 0, found -1"]),
        (["optimizer.b1=2"], ["optimizer: b1 of ", "from 0 to below 1, found 2"]),
    ],
    ids=lambda value: value[-1],
)
def test_numbers_of_an_optimizer_are_refused_by_the_key_that_was_set(tmp_path, overrides, words):
    text = refused(tmp_path, *data_of(tmp_path, np.arange(8) % 2), "model.classes=2", *overrides)
    assert all(word in text for word in [*words, "(set on the command line)"]), text


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "untargeted"])
@pytest.mark.parametrize("token", [5, -1])
def test_tokens_beyond_an_embedding_are_refused_by_place(tmp_path, install, token, loss):
    source = "def untargeted():\n    return lambda outputs, batch: (outputs**2).mean(axis=(-1, -2))\n"
    install("acme", {"framework.losses": {"untargeted": "acme_loss:untargeted"}}, {"acme_loss.py": source})
    tokens = RANDOM.integers(5, size=(8, 3)).astype(np.int32)
    tokens[6, 1] = token
    data = [f"data.train={save(tmp_path, 'train', inputs=tokens, targets=tokens % 2)}", f"loss={loss}", "metrics=[]"]
    model = ["model=serial", "model.layers=[{Embedding: [5, 4]},{Dense: 2}]"]
    with pytest.raises(FrameworkError) as caught:
        train(tmp_path / "run", *SHORT[:1], *model, *SHORT[3:], *data)
    words = ["split 'train'", "train.npz, row 7", f"found the input {token} at [1], expected integers from 0 to 4"]
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_default_metrics_fit_the_loss(tmp_path):
    targets = RANDOM.normal(size=8)
    for loss, tag in {"squared_error": "mse", "absolute_error": "mae", "huber": "mse"}.items():
        run = train(tmp_path / loss, *SHORT, *data_of(tmp_path, targets), f"loss={loss}", "model.classes=1")
        assert {key for key in run.records[-1] if key.startswith("test/") or key.startswith("eval/")} == {
            "eval/loss",
            f"eval/{tag}",
        }


def test_a_text_with_more_characters_than_the_model_knows_is_refused(tmp_path):
    with pytest.raises(FrameworkError, match=r"split 'train', characters .*: found the target \d+ .*expected class"):
        framework.run(
            [
                "+experiment=char_gpt",
                "model.vocabulary=40",
                "data.vocabulary=60",
                "train.steps=1",
                f"run.dir={tmp_path / 'r'}",
            ]
        )


STREAM = """
import itertools
import jax
import numpy as np
from framework.api import DataPipeline

class Stream(DataPipeline):
    spec = {"inputs": jax.ShapeDtypeStruct((4, 3), np.float32), "targets": jax.ShapeDtypeStruct((4,), np.int32)}
    steps_per_epoch, splits, source = 5, ("test",), "a stream"

    def __init__(self, bad, bad_eval):
        self.bad, self.bad_eval = bad, bad_eval

    def train(self, seed, start=0):
        for step in itertools.count(start + 1):
            yield self._batch(7 if step == self.bad else 1)

    def eval(self, split):
        for label in (1, -1 if self.bad_eval else 0):
            yield {**self._batch(label), "weights": np.ones(4, np.float32)}

    def _batch(self, label):
        return {"inputs": np.ones((4, 3), np.float32), "targets": np.array([0, 1, label, 1], np.int32)}

def stream(bad: int = 0, bad_eval: bool = False):
    return Stream(bad, bad_eval)
"""


@pytest.mark.parametrize("cut", ["1", "3"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("data.bad=4", ["(acme 1.0): step 4, example 3 (index 2)", "found the target 7", "from 0 to 1"]),
        ("data.bad_eval=true", ["(acme 1.0): split 'test', batch 2, example 3 (index 2)", "found the target -1"]),
    ],
)
def test_a_stream_is_refused_at_the_step_that_it_spoils(tmp_path, install, fault, words, cut):
    install("acme", {"framework.data": {"stream": "acme_stream:stream"}}, {"acme_stream.py": STREAM})
    overrides = ["data=stream", fault, "model=mlp", "model.hidden=[4]", "model.classes=2", "train.steps=6"]
    with pytest.raises(FrameworkError) as caught:
        train(tmp_path / "run", *overrides, f"train.steps_per_call={cut}")
    assert all(word in str(caught.value) for word in words), str(caught.value)
