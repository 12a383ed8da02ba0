"""Outputs of a trained model for files: in their order, with their ids, the same bytes on any number of devices."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import framework
from framework import testing

DIGITS = Path(testing.__file__).parents[1] / "plugins/framework_data/digits.npz"
COUNT = 70  # of blocks of 32, 32 and 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A classifier of digits, whose data name a preprocessor and the classes."""
    words = ["data=digits", "data.eval_batch_size=32", "model=mlp", "model.hidden=[16]", "train.steps=20"]
    folder = tmp_path_factory.mktemp("run")
    return framework.run([*words, "train.eval_every=0", "callbacks=[checkpoint]", f"run.root={folder}"])


@pytest.fixture(scope="module")
def images():
    with np.load(DIGITS) as file:
        return file["images"][:COUNT]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(folder, form, images):
    """Write images in one of the forms that are read; return the path and the ids that are expected."""
    numbered = [str(number) for number in range(len(images))]
    path = folder / f"raw.{form}"
    match form:
        case "npy":
            np.save(path, images)
        case "npz":
            np.savez(path, inputs=images, targets=np.zeros(len(images)))
        case "compressed.npz":
            np.savez_compressed(path, images)
        case "ids.npz":
            numbered = [f"n{number}" for number in numbered]
            np.savez(path, scans=images, ids=np.array(numbered))
        case "folder":
            path.mkdir()
            np.save(path / "scans.npy", images)
        case "png":
            image = pytest.importorskip("PIL.Image")
            path.mkdir()
            numbered = [f"{int(number):03}.png" for number in numbered]
            for name, pixels in zip(numbered, images, strict=True):
                image.fromarray(pixels).save(path / name)
            (path / "._000.png").write_bytes(b"what macOS keeps of a file")
    return path, numbered


@pytest.mark.parametrize("form", ["npy", "npz", "compressed.npz", "ids.npz", "folder", "png"])
def test_each_form_of_input_gives_the_outputs_of_the_model_in_order(run, images, tmp_path, form):
    path, ids = written(tmp_path, form, images)
    target = tmp_path / "out.csv"
    done = testing.command("predict", str(run.directory), "--input", str(path), "--output", str(target))
    assert (done.code, done.out) == (0, f"{COUNT} examples of {path}\nwritten: {target}\n")
    rows, expected = table(target), run.model.predict(images)
    assert [row["id"] for row in rows] == ids
    found = np.array([[row[f"output_{name}"] for name in "0123456789"] for row in rows], np.float32)
    np.testing.assert_array_equal(found, expected)
    assert [row["predicted"] for row in rows] == [str(each) for each in expected.argmax(axis=1)]
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "out.csv"}


def test_outputs_are_written_as_arrays_too(run, images, tmp_path):
    path, ids = written(tmp_path, "npy", images)
    for name in ("out.npy", "out.npz"):
        done = testing.command("predict", str(run.directory), "--input", str(path), "--output", f"{tmp_path}/{name}")
        assert done.code == 0
    expected = run.model.predict(images)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["outputs"], expected)
        assert list(map(str, file["ids"])) == ids
        assert list(file["predicted"]) == [str(each) for each in expected.argmax(axis=1)]
        assert list(file["classes"]) == list("0123456789")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.npy", "out.npz", "raw.npy"]


def test_rows_of_a_table_go_by_the_names_of_their_columns(tmp_path):
    rows = [f"{k % 7},{k % 5},{int(k % 7 > k % 5)}" for k in range(60)]
    (tmp_path / "train.csv").write_text("\n".join(["height,width,target", *rows]))
    words = ["data=arrays", f"data.train={tmp_path}/train.csv", "data.batch_size=20", "model=mlp", "model.classes=2"]
    run = framework.run([*words, "train.steps=4", "callbacks=[checkpoint]", f"run.root={tmp_path}"])
    (tmp_path / "in.csv").write_text("\N{BYTE ORDER MARK}id,width,height\na,1,6\nb,3,0\n", "utf-8")
    words = ["predict", str(run.directory), "--output", f"{tmp_path}/out.csv", "--input"]
    assert testing.command(*words, f"{tmp_path}/in.csv").code == 0
    expected = run.model.predict([{"height": 6, "width": 1}, {"height": 0, "width": 3}])
    found = table(tmp_path / "out.csv")
    assert [row["id"] for row in found] == ["a", "b"]
    numbers = np.array([[row[f"output_{k}"] for k in (0, 1)] for row in found], np.float32)
    np.testing.assert_array_equal(numbers, expected)
    (tmp_path / "bad.csv").write_text("width,height\n1,6\n3\n")
    assert "bad.csv, line 3: expected 2 values" in testing.command(*words, f"{tmp_path}/bad.csv").err
    (tmp_path / "bad.csv").write_text("width,width,height\n1,2,6\n")
    assert "bad.csv has several columns 'width'" in testing.command(*words, f"{tmp_path}/bad.csv").err
    (tmp_path / "bad.csv").write_text("width,height\n1,6\n3,x\n")
    assert "bad.csv, examples 0 to 1: 'height' holds texts" in testing.command(*words, f"{tmp_path}/bad.csv").err
    assert table(tmp_path / "out.csv") == found  # an older file stays


def test_the_lines_of_a_text_are_examples(tmp_path):
    (tmp_path / "text.txt").write_text("abcd" * 300)
    words = ["+experiment=char_gpt", f"data.path={tmp_path}/text.txt", "data.block=8", "data.batch_size=8"]
    words += ["model.layers=1", "model.width=8", "model.heads=1", "train.steps=1", "train.eval_every=0"]
    run = framework.run([*words, "callbacks=[checkpoint]", f"run.root={tmp_path}"])
    lines = ["abcdabcd", "bcdabcda", "dcbadcba"]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    words = ["predict", str(run.directory), "--input", f"{tmp_path}/in.txt", "--output", f"{tmp_path}/out.npz"]
    assert testing.command(*words).code == 0
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["outputs"], run.model.predict(lines))


def test_one_device_and_eight_write_the_same_bytes(run, images, tmp_path):
    path, _ = written(tmp_path, "npy", images)
    for devices in ("1", "8"):
        words = [str(run.directory), "--input", str(path), "--output", f"{tmp_path}/{devices}.npz"]
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": devices}
        subprocess.run([sys.executable, "-m", "framework", "predict", *words], env=environment, check=True)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "8.npz").read_bytes()


def test_inputs_that_are_prepared_already_are_taken_as_they_are(run, images, tmp_path):
    np.save(tmp_path / "in.npy", run.model.preprocess(images))
    words = ["predict", str(run.directory), "--input", f"{tmp_path}/in.npy", "--output", f"{tmp_path}/out.npy"]
    assert "expected raw images as uint8" in testing.command(*words).err
    assert testing.command(*words, "--prepared").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), run.model.predict(images))


def test_outputs_that_are_not_finite_are_counted_and_seeds_are_checked(run, images, tmp_path):
    inputs = np.array(run.model.preprocess(images))
    inputs[3], inputs[40, 0, 0] = np.nan, np.inf
    np.save(tmp_path / "in.npy", inputs)
    words = ["predict", str(run.directory), "--input", f"{tmp_path}/in.npy", "--output", f"{tmp_path}/out.npy"]
    done = testing.command(*words, "--prepared")
    assert done.code == 0
    assert f"2 of {COUNT} examples have outputs that are not finite" in done.err
    np.save(tmp_path / "in.npy", np.full((1, 28, 28, 1), 1e300))
    assert "expected inputs within the range of float32, found 1e+300" in testing.command(*words, "--prepared").err
    for seed in ("-1", str(2**32), "9" * 30):
        assert f"--seed: expected 0 to {2**32 - 1}, found {seed}" in testing.command(*words, "--seed", seed).err


def unequal(folder):
    np.savez(folder / "in.npz", a=np.zeros(3), b=np.zeros(4))
    return "in.npz"


def others(folder):
    np.savez(folder / "in.npz", a=np.zeros(3), b=np.zeros(3))
    return "in.npz"


def cut(folder):
    np.savez(folder / "in.npz", np.zeros((40, 8, 8), np.uint8))
    content = (folder / "in.npz").read_bytes()
    (folder / "in.npz").write_bytes(content[:600])
    return "in.npz"


def damaged(folder):
    np.savez_compressed(folder / "in.npz", np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8))
    content = bytearray((folder / "in.npz").read_bytes())
    content[60:80] = bytes(20)
    (folder / "in.npz").write_bytes(content)
    return "in.npz"


def deep(folder):
    image = pytest.importorskip("PIL.Image")
    (folder / "in").mkdir()
    image.fromarray(np.full((8, 8), 4000, np.uint16)).save(folder / "in" / "0.png")
    return "in"


def empty(folder):
    np.save(folder / "in.npy", np.zeros((0, 8, 8), np.uint8))
    return "in.npy"


def objects(folder):
    np.save(folder / "in.npy", np.array([{}]), allow_pickle=True)
    return "in.npy"


REFUSED = {
    "nothing there": (lambda folder: "none.npy", r"none.npy does not exist"),
    "an unknown ending": (
        lambda folder: ((folder / "in.doc").write_text("") and "") or "in.doc",
        "has the ending '.doc'",
    ),
    "arrays of unequal lengths": (unequal, "arrays of unequal lengths: a 3, b 4"),
    "arrays of other names": (
        others,
        "expected raw images as one array, uint8 [B, 8, 8, 1], found arrays by name: a, b",
    ),
    "a cut archive": (cut, "in.npz cannot be read"),
    "a damaged archive": (damaged, "in.npz cannot be read"),
    "images of 16 bits": (deep, "0.png has pixels of more than 8 bits"),
    "no example": (empty, "in.npy holds no examples"),
    "pickled objects": (objects, "in.npy cannot be read"),
    "an empty folder": (lambda folder: (folder / "in").mkdir() or "in", "holds neither images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line_and_leaves_no_file(run, tmp_path, case):
    make, says = REFUSED[case]
    path = tmp_path / make(tmp_path)
    done = testing.command("predict", str(run.directory), "--input", str(path), "--output", f"{tmp_path}/out.csv")
    assert done.code in (2, 4)
    assert done.err.splitlines()[-1].startswith("error[")
    assert says in done.err.splitlines()[-1]
    assert not [each for each in tmp_path.iterdir() if "out.csv" in each.name]
