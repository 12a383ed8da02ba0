"""Each damaged or misnamed data file ends a run with one line that names the file."""

from __future__ import annotations

import gzip
import io
import os
import pickle

import numpy as np
import pytest

from framework import testing

TABLE = b"a,b,label\n" + b"".join(b"%d,%d,%d\n" % (i, -i, i % 2) for i in range(16))


def archive(**arrays):
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


SOUND = archive(inputs=np.ones([16, 3], np.float32), targets=np.arange(16) % 2)


def objects():
    return archive(inputs=np.array([{"a": 1}] * 16, dtype=object), targets=np.arange(16) % 2)


FILES = {
    "an empty archive": ("x.npz", b""),
    "a truncated archive": ("x.npz", SOUND[: len(SOUND) // 2]),
    "a flipped byte": ("x.npz", SOUND[:100] + bytes([SOUND[100] ^ 255]) + SOUND[101:]),
    "objects": ("x.npz", objects()),
    "a pickle": ("x.npz", pickle.dumps({"inputs": [1, 2]})),
    "texts": ("x.npz", archive(inputs=np.array(["a"] * 16), targets=np.arange(16) % 2)),
    "other arrays": ("x.npz", archive(images=np.ones([16, 3]))),
    "no rows": ("x.npz", archive(inputs=np.ones([0, 3], np.float32), targets=np.arange(0))),
    "unequal lengths": ("x.npz", archive(inputs=np.ones([16, 3], np.float32), targets=np.arange(9) % 2)),
    "a number": ("x.npz", archive(inputs=np.float32(3), targets=np.arange(16) % 2)),
    "an archive named as a table": ("x.csv", SOUND),
    "a table named as an archive": ("x.npz", TABLE),
    "another ending": ("x.parquet", SOUND),
    "an empty table": ("x.csv", b""),
    "a header alone": ("x.csv", b"a,b,label\n"),
    "ragged rows": ("x.csv", TABLE + b"1,2\n"),
    "an open quote": ("x.csv", TABLE + b'"1,2,3\n'),
    "bytes that are no text": ("x.csv", TABLE + b"\xff\xfe,1,1\n"),
    "NUL bytes": ("x.csv", TABLE + b"\0\0,1,1\n"),
    "words for numbers": ("x.csv", TABLE + b"many,1,1\n"),
    "a missing number": ("x.csv", TABLE + b",1,1\n"),
    "not a number": ("x.csv", TABLE + b"nan,1,1\n"),
    "control characters": ("x.csv", TABLE + b"\x1b[31m,1,1\n"),
}
"""The name and content of a file, by what is wrong."""

ARRAYS = {
    "no rows": "0 training examples",
    "unequal lengths": "split 'train': 'inputs' has 16 examples and 'targets' has 9",
    "a number": "split 'train': 'inputs' is a single value",
}
"""Faults of whole splits, which name the split and the array."""

COLUMNS = "data.fields={inputs: [a, b], targets: label}"


def run(path):
    """Train four steps on a file, and return the end of the command."""
    fields = [COLUMNS] if path.suffix == ".csv" else []
    small = ["model=mlp", "model.hidden=[4]", "model.classes=2", "data.batch_size=4", "data.eval_batch_size=4"]
    return testing.command("data=arrays", f"data.train={path}", *fields, *small, "train.steps=4", "callbacks=[]")


def check(end, *said):
    assert end.code == 4, end.err[-1000:]
    errors = [line for line in end.err.splitlines() if line.startswith("error[")]
    assert len(errors) == 1
    assert errors[0].startswith("error[data]: ")
    assert all(part in errors[0] for part in said), errors[0]
    assert "Traceback" not in end.err
    assert "\x1b" not in end.err
    assert "\0" not in end.err


@pytest.mark.parametrize("wrong", FILES)
def test_a_damaged_file_is_named(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    name, content = FILES[wrong]
    (tmp_path / name).write_bytes(content)
    check(run(tmp_path / name), ARRAYS.get(wrong, name))


@pytest.mark.parametrize("name", ["x.npz", "x.csv"])
@pytest.mark.parametrize("kind", ["nothing", "a pipe", "a loop of links", "an empty folder"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a loop of links":
        path.symlink_to(path)
    elif kind == "an empty folder":
        path.mkdir()
    check(run(path), name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(SOUND)
    (tmp_path / "x.npz").chmod(0)
    check(run(tmp_path / "x.npz"), "x.npz")


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + TABLE)
    assert run(tmp_path / "x.csv").code == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", gzip.compress(b""), gzip.compress(b"\0\0\x08\x03" + b"\0" * 12), b"<html>not found</html>"],
    ids=["empty", "a cut header", "nothing in it", "no images", "a page"],
)
def test_damaged_mnist_is_named(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist" / f"{name}-ubyte.gz").write_bytes(content)
    words = ["data=mnist", f"data.root={tmp_path / 'mnist'}", "data.offline=error", "train.steps=4", "callbacks=[]"]
    check(testing.command(*words), "idx")


def test_a_pipe_is_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "x.txt")
    check(testing.command("data=text", f"data.path={tmp_path / 'x.txt'}", "train.steps=1", "callbacks=[]"), "x.txt")
