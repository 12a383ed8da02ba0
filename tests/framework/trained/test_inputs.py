"""A loaded model says what it takes in words, and makes it of raw inputs just as training did."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import jax
import numpy as np
import pytest

import framework
from framework import testing
from framework.errors import ConfigError, PluginError
from framework.trained.inputs import Expected, checked_inputs, expected_inputs
from framework_data.columns import columns
from framework_data.digits import digits, spread_rows
from framework_data.files import arrays
from framework_data.idx import read_idx
from framework_data.images import find
from framework_data.mnist import MNIST
from framework_data.text import encode

QUICK = ["model=mlp", "model.hidden=[16]", "train.steps=40", "train.eval_every=0"]
HALF = jax.numpy.bfloat16


def correct(model, raw, targets):
    """The accuracy of a model on raw inputs, by NumPy."""
    return (np.asarray(model(model.preprocess(raw))).argmax(axis=-1) == targets).mean()


@pytest.mark.parametrize("options", [["data.size=8"], ["data.normalize=false"], []])
def test_raw_digits_are_seen_as_in_training(tmp_path, options):
    result = framework.run(["data=digits", *options, *QUICK, f"run.root={tmp_path}"])
    with np.load(Path(testing.__file__).parents[1] / "plugins/framework_data/digits.npz") as file:
        images, labels = file["images"], file["labels"]
    rows = spread_rows(labels)
    model = framework.load(result.directory)
    assert correct(model, images[rows], labels[rows]) == pytest.approx(result.metrics["eval/accuracy"], abs=1e-9)
    split = next(batch for batch in _digits(options).eval("test"))
    np.testing.assert_array_equal(model.preprocess(images[rows]), split["inputs"])
    assert model.facts["classes"] == list("0123456789")


def _digits(options):
    values = {word.split("=")[0].removeprefix("data."): word.split("=")[1] for word in options}
    return digits(size=int(values.get("size", 28)), normalize=values.get("normalize") != "false")


REAL = [*filter(None, os.environ.get("FRAMEWORK_DATA", "").split(os.pathsep))]
FOLDER = next((Path(each) / "mnist" for each in REAL if (Path(each) / "mnist").is_dir()), None)


@pytest.mark.skipif(FOLDER is None, reason="MNIST is not in $FRAMEWORK_DATA")
@pytest.mark.parametrize("options", [[], ["data.normalize=false"]])
def test_the_bytes_of_mnist_are_seen_as_in_training(tmp_path, options):
    assert FOLDER is not None
    words = ["data=mnist", f"data.root={FOLDER}", "data.train_limit=4000", *options, *QUICK]
    result = framework.run([*words, f"run.root={tmp_path}"])
    images, labels = (read_idx(find(FOLDER, file) or FOLDER / file.name, file) for file in MNIST.files[2:])
    model = framework.load(result.directory)
    assert correct(model, images, labels) == pytest.approx(result.metrics["eval/accuracy"], abs=1e-9)
    with pytest.raises(ConfigError, match=r"expected inputs float32 .*, found uint8 \[10000, 28, 28, 1\]"):
        model(images[..., None])


def test_texts_become_the_integers_of_training(tmp_path):
    words = ["data=text", "data.block=16", "model=transformer", "model.width=8", "model.layers=1", "model.heads=1"]
    result = framework.run([*words, "metrics=[accuracy]", "train.steps=1", f"run.root={tmp_path}"])
    model = framework.load(result.directory)
    rows = model.preprocess(["To be, or not to", "be\N{SNOWMAN} that is they"])
    characters = model.facts["characters"]
    assert rows.dtype == np.int32 and rows[1, 2] == 0
    assert "".join(characters[i] for i in rows[0]) == "To be, or not to"
    np.testing.assert_array_equal(rows[0], encode("To be, or not to", characters))
    assert np.shape(model(rows))[:2] == (2, 16)
    for raw, text in {
        "short": "expected inputs int32 [B, 16], found int32 [1, 5]",
        ("one", "three"): "expected texts of one length, found 3 to 5 characters",
        (1, 2): "expected a text or several, found int",
    }.items():
        with pytest.raises(ConfigError) as caught:
            model.preprocess(raw)
        assert text in testing.message(caught)


def test_rows_of_a_table_become_the_inputs_of_training(tmp_path):
    random = np.random.default_rng(0)
    table = np.round(random.normal(size=(120, 3)) * [1, 50, 1000]).astype(int) / [8, 1, 1]
    targets = (table[:, 0] > 0).astype(int)
    for name, rows in {"train": slice(0, 80), "test": slice(80, 120)}.items():
        lines = [",".join(map(str, [*row, target])) for row, target in zip(table[rows], targets[rows], strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,c,target", *lines]) + "\n")
    words = ["data=arrays", f"data.train={tmp_path}/train.csv", f"data.test={tmp_path}/test.csv", "data.batch_size=16"]
    model = framework.run([*words, "model.classes=2", *QUICK, f"run.root={tmp_path}"]).model
    with (tmp_path / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = arrays(f"{tmp_path}/train.csv", f"{tmp_path}/test.csv", batch_size=16)
    wanted = next(held.eval("test"))["inputs"][:40]
    for raw in (rows, {name: [row[name] for row in rows] for name in "cba"}, table[80:]):
        found = model.preprocess(raw)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
    loaded = framework.load(model.directory)
    evaluated = testing.records(model.directory)[-1]["eval/accuracy"]
    assert correct(loaded, rows, targets[80:]) == pytest.approx(evaluated, abs=1e-9)
    for raw, text in (
        ([{"a": 1, "b": 2}], "found nothing called 'c' in every row"),
        ([{"a": 1, "b": "x", "c": 3}], "'b' holds texts that are no numbers"),
        ([{"a": 1, "b": math.inf, "c": 3}], "'b' holds values that are not finite"),
        (np.zeros((2, 4)), "expected rows [B, 3] of a, b, c, found [2, 4]"),
    ):
        with pytest.raises(ConfigError) as caught:
            loaded.preprocess(raw)
        assert text in testing.message(caught)


def test_nested_fields_and_whole_numbers_are_those_of_training(tmp_path):
    content = {"a": np.arange(20), "b": np.linspace(0, 1, 20), "y": np.arange(20) % 2}
    np.savez(tmp_path / "mine.npz", **content)
    fields = {"inputs": {"whole": "a", "pair": ["a", "b"]}, "targets": "y"}
    held = arrays(f"{tmp_path}/mine.npz", fields=fields, batch_size=4)
    recipe = held.facts["preprocess"]
    made = columns(recipe["fields"], recipe["dtypes"])(content)
    assert made["whole"].dtype == np.int32 and made["pair"].dtype == np.float32
    np.testing.assert_array_equal(made["pair"], np.stack([content["a"], content["b"]], axis=1).astype(np.float32))
    with pytest.raises(ConfigError, match="'a' holds fractions"):
        columns(recipe["fields"], recipe["dtypes"])({**content, "a": content["b"]})


LEAF = Expected((-1, 3), "float32")
NESTED = {"image": LEAF, "id": Expected((-1,), "int32")}
WRONG = {
    "bytes": (LEAF, np.zeros((2, 3), np.uint8), "expected inputs float32 [B, 3], found uint8 [2, 3]; HINT."),
    "integers": (LEAF, [[1, 2, 3]], "expected inputs float32 [B, 3], found int64 [1, 3]; HINT."),
    "a wrong width": (
        LEAF,
        np.zeros((2, 4), np.float32),
        "float32 [B, 3], found float32 [2, 4]; HINT.",
    ),
    "one example": (
        LEAF,
        np.zeros(3, np.float32),
        "add the axis of the batch, as inputs[None] does.",
    ),
    "a number": (LEAF, 1.0, "expected inputs float32 [B, 3], found float64 []; HINT."),
    "a text": (LEAF, "abc", "expected inputs float32 [B, 3], found <U3 []; HINT."),
    "a mapping": (LEAF, {"image": np.zeros((2, 3))}, "found object []; HINT."),
    "ragged lists": (LEAF, [[1.0], [2.0, 3.0]], "found nested lists of unequal lengths"),
    "one leaf for two": (
        NESTED,
        np.zeros((2, 3)),
        "expected inputs {id: int32 [B], image: float32 [B, 3]}, found float64 [2, 3]; HINT.",
    ),
    "a leaf of another dtype": (
        NESTED,
        {"image": np.zeros((2, 3)), "id": np.zeros(2)},
        "expected inputs['id'] int32 [B], found float64 [2]; HINT.",
    ),
    "batches of two sizes": (
        NESTED,
        {"image": np.zeros((2, 3)), "id": np.zeros(3, np.int32)},
        "expected inputs of one batch, found batches of 2, 3.",
    ),
    "an integer too large": (Expected((-1,), "int32"), [2**40], "expected inputs int32 [B], found int64 [1]; HINT."),
}


@pytest.mark.parametrize("case", WRONG)
def test_inputs_that_are_none_are_told_in_words(case):
    expected, inputs, text = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        checked_inputs(inputs, expected, "; HINT")
    assert testing.message(caught).endswith(text.rstrip(".") + ".")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, HALF])
def test_floats_of_any_width_pass_as_their_own_values(dtype):
    given = np.array([[0.5, -2.0, 1.25]], dtype)
    cast = checked_inputs(given, LEAF, "")
    assert cast.dtype == np.float32
    np.testing.assert_array_equal(cast, given.astype(np.float32))


def test_integers_of_another_width_pass_if_they_fit():
    for dtype in (np.uint8, np.int64, np.uint32):
        cast = checked_inputs(np.array([7], dtype), Expected((-1,), "int32"), "")
        assert (cast.dtype, int(cast[0])) == (np.int32, 7)


def test_shapes_and_dtypes_are_read_back_from_json():
    shapes, dtypes = {"image": [-1, 3], "pair": [[-1], [-1, 2]]}, {"image": "float32", "pair": ["int32", "bool"]}
    pair = (Expected((-1,), "int32"), Expected((-1, 2), "bool"))
    assert expected_inputs(shapes, dtypes) == {"image": LEAF, "pair": pair}
    assert expected_inputs([-1, 6], None) == Expected((-1, 6))  # of an older record


def test_without_a_preprocessor_the_model_says_what_it_takes(tmp_path):
    model = testing.train(tmp_path, "train.steps=1").model
    with pytest.raises(ConfigError, match=r"data 'synthetic' name no preprocessor; .* float32 \[B, 6\]"):
        model.preprocess(np.zeros((1, 6), np.uint8))


ACME = """
import numpy as np
from framework_data.synthetic import synthetic

def tens(recipe: dict = {}):
    pipeline = synthetic((6,), examples=64, batch_size=16, eval_batch_size=16)
    pipeline.facts = {"preprocess": recipe}
    return pipeline

def times(factor: float = 1.0):
    return lambda raw: np.asarray(raw, np.float32) * np.float32(factor)

def unsound():
    def preprocess(raw):
        raise KeyError("no such column")
    return preprocess

def sets():
    pipeline = tens()
    pipeline.facts = {"classes": {1, 2}}
    return pipeline
"""
ENTRIES = {
    "framework.data": {"tens": "acme_raw:tens", "sets": "acme_raw:sets"},
    "framework.preprocessors": {"times": "acme_raw:times", "unsound": "acme_raw:unsound"},
}


def test_a_preprocessor_is_a_plugin_with_options(tmp_path, install):
    install("acme", ENTRIES, {"acme_raw.py": ACME})

    def trained(recipe):
        words = ["data=tens", f"+data.recipe={recipe}", *QUICK, "train.steps=1", f"run.root={tmp_path}"]
        return framework.run(words).model

    model = trained("{name: times, factor: 0.5}")
    np.testing.assert_array_equal(model.preprocess([[2] * 6]), np.ones((1, 6), np.float32))
    for recipe, error, text in (
        ("{name: times, factr: 2.0}", ConfigError, "facts.preprocess"),
        ("{name: tmes}", ConfigError, "Did you mean 'times'?"),
        ("{name: unsound}", PluginError, "preprocessor 'unsound' (acme 1.0) failed on raw inputs: KeyError"),
    ):
        with pytest.raises(error) as caught:
            trained(recipe).preprocess([[1] * 6])
        assert text in testing.message(caught)


def test_facts_that_json_cannot_hold_are_the_data_plugins_fault(tmp_path, install):
    install("acme", ENTRIES, {"acme_raw.py": ACME})
    with pytest.raises(PluginError, match=r"data: data pipeline 'sets' \(acme 1.0\) has facts that JSON cannot hold"):
        framework.run(["data=sets", *QUICK, f"run.root={tmp_path}"])
