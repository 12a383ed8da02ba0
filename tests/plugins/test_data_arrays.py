"""The digits that ship with the package, and the user's own files."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import framework_data.digits
from framework.errors import ConfigError, DataError
from framework_data.digits import digits, resize
from framework_data.files import arrays

# Digits


@pytest.mark.parametrize(("old", "new"), [(8, 28), (8, 8), (8, 20), (5, 7), (4, 16)])
def test_resize_equals_that_of_jax(old, new):
    images = np.random.default_rng(0).random((3, old, old), np.float32)
    expected = jax.image.resize(images, (3, new, new), "bilinear")
    np.testing.assert_allclose(resize(images, new), expected, atol=1e-6)


def everything(data):
    parts = [data.arrays, *data.eval("test")]
    keep = [np.ones(len(parts[0]["targets"])), *(batch["weights"] for batch in parts[1:])]
    return [
        np.concatenate([part[name][mask == 1] for part, mask in zip(parts, keep, strict=True)])
        for name in ("inputs", "targets")
    ]


def test_digits_are_split_evenly_and_normalised():
    data = digits(size=8)
    inputs, targets = everything(data)
    assert inputs.shape == (1797, 8, 8, 1)
    assert np.bincount(targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(targets[1497:]).tolist() == [30] * 10
    assert len(np.unique(inputs.reshape(1797, -1), axis=0)) == 1797, "no example is in both splits"
    assert abs(inputs.mean()) < 1e-3
    assert abs(inputs.std() - 1) < 1e-3
    assert data.splits == ("test",)
    assert digits().spec["inputs"].shape == (128, 28, 28, 1)


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    original = datasets.load_digits()
    with np.load(Path(framework_data.digits.__file__).with_name("digits.npz")) as file:
        assert np.array_equal(file["images"], original.images)
        assert np.array_equal(file["labels"], original.target)


def test_plain_digits_lie_between_0_and_1_and_are_told_apart_by_their_neighbours():
    inputs, targets = everything(digits(normalize=False))
    assert (inputs.min(), inputs.max()) == (0, 1)
    flat = inputs.reshape(1797, -1)
    train, test = flat[:1497], flat[1497:]
    distance = (test**2).sum(1)[:, None] - 2 * test @ train.T + (train**2).sum(1)
    assert (targets[distance.argmin(axis=1)] == targets[1497:]).mean() > 0.97


def test_digits_refuse_a_size_of_nothing():
    with pytest.raises(ConfigError, match="size is 0"):
        digits(size=0)


# The user's own files

INPUTS = np.random.default_rng(0).standard_normal((40, 3))
TARGETS = np.arange(40) % 4


def save_npz(folder, **named):
    path = folder / "data.npz"
    np.savez(path, **(named or {"inputs": INPUTS, "targets": TARGETS}))
    return path


def save_folder(folder, **named):
    path = folder / "data"
    path.mkdir()
    for name, array in (named or {"inputs": INPUTS, "targets": TARGETS}).items():
        np.save(path / f"{name}.npy", array)
    return path


def save_csv(folder):
    path = folder / "data.CSV"
    rows = [",".join(map(repr, map(float, row))) + f",{target}" for row, target in zip(INPUTS, TARGETS, strict=True)]
    path.write_text('\ufeffwidth, "height",depth,target\n' + "\n".join(rows) + "\n\n", "utf-8")
    return path


SAVERS = [save_npz, save_folder, save_csv]


@pytest.mark.parametrize("save", SAVERS)
def test_every_format_gives_the_same_batches(tmp_path, save):
    data = arrays(str(save(tmp_path)), test=0.25, batch_size=5, eval_batch_size=4)
    assert data.spec["inputs"] == jax.ShapeDtypeStruct((5, 3), np.float32)
    assert data.spec["targets"] == jax.ShapeDtypeStruct((5,), np.int32)
    inputs, targets = everything(data)
    assert len(data.arrays["targets"]) == 30
    order = np.lexsort(inputs.T)
    original = np.lexsort(INPUTS.astype(np.float32).T)
    assert np.array_equal(inputs[order], INPUTS[original].astype(np.float32))
    assert np.array_equal(targets[order], TARGETS[original])


@pytest.mark.parametrize("save", SAVERS)
def test_a_test_file_is_taken_whole_and_in_order(tmp_path, save):
    data = arrays(str(save(tmp_path)), test=str(save_npz(tmp_path)), batch_size=40, eval_batch_size=40, validation=0)
    (batch,) = data.eval("test")
    assert np.array_equal(batch["inputs"], INPUTS.astype(np.float32))
    assert sorted(data.arrays["targets"]) == sorted(TARGETS)


def test_a_share_of_a_sorted_file_is_a_fair_one(tmp_path):
    path = save_npz(tmp_path, inputs=np.arange(1000.0), targets=np.repeat([0, 1], 500))
    data = arrays(str(path), test=0.3, validation=0.3)
    for split in data.splits:
        share = np.concatenate([batch["targets"][batch["weights"] == 1] for batch in data.eval(split)]).mean()
        assert 0.4 < share < 0.6
    assert data.splits == ("validation", "test")


def test_fields_name_and_nest_the_leaves(tmp_path):
    path = save_npz(tmp_path, a=INPUTS, b=TARGETS.astype(np.uint8), c=np.ones(40, bool), w=np.full(40, 0.5, np.float16))
    fields = {"inputs": {"left": "a", "right": ("b", "c")}, "targets": "c", "weights": "w"}
    spec = arrays(str(path), fields=fields, batch_size=4).spec
    dtypes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), spec)
    assert dtypes == {
        "inputs": {"left": ((4, 3), "float32"), "right": ((4, 2), "float32")},
        "targets": ((4,), "int32"),
        "weights": ((4,), "float32"),
    }


def test_columns_of_a_table_are_named_one_by_one_or_together(tmp_path):
    fields = {"inputs": ("depth", "width"), "targets": ("target",)}
    data = arrays(str(save_csv(tmp_path)), fields=fields, batch_size=4)
    assert data.spec["targets"] == jax.ShapeDtypeStruct((4, 1), np.float32)
    inputs, _ = everything(data)
    order = np.argsort(inputs[:, 0])
    assert np.array_equal(inputs[order], INPUTS[np.argsort(INPUTS[:, 2])][:, [2, 0]].astype(np.float32))


def write(name, content):
    def make(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


def npz(**named):
    return lambda folder: save_npz(folder, **named)


def damaged_npz(change):
    def make(folder):
        path = save_npz(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def damaged_folder(folder):
    path = save_folder(folder)
    (path / "targets.npy").write_bytes(b"junk")
    return path


def huge_npz(folder):
    """An archive whose array claims eight exbibytes."""
    path = save_npz(folder)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return path


BAD_FILES = {
    "missing": (lambda folder: folder / "none.npz", "none.npz does not exist"),
    "another kind": (write("data.txt", "1,2"), "expected .npz, .csv or a folder of .npy files"),
    "empty npz": (write("data.npz", ""), "no complete zip archive"),
    "npy as npz": (write("data.npz", gzip.compress(b"x")), "no complete zip archive"),
    "cut npz": (damaged_npz(lambda data: data[: len(data) // 2]), "no complete zip archive"),
    "flipped bit": (damaged_npz(lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:]), "CRC"),
    "huge claim": (huge_npz, "data.npz: "),
    "objects": (npz(inputs=np.array([{}] * 4), targets=np.zeros(4)), "Python objects or no array as 'inputs'"),
    "text": (npz(inputs=np.array(["a"] * 4), targets=np.zeros(4)), "'inputs' with dtype <U1, expected real numbers"),
    "complex": (npz(inputs=np.ones(4, complex), targets=np.zeros(4)), "complex128"),
    "not finite": (npz(inputs=np.array([1, np.nan]), targets=np.zeros(2)), "'inputs' that are not finite"),
    "time stamps": (
        npz(inputs=np.ones(240), targets=1_700_000_000_000 + np.arange(240)),
        "'targets' that float32 cannot tell apart: 240 different ones become 1",
    ),
    "time stamps as floats": (
        npz(inputs=np.ones(240), targets=1.7e9 + np.arange(240)),
        "'targets' that float32 cannot tell apart: 240 different ones become 3",
    ),
    "numbers that float64 rounds": (
        npz(inputs=np.ones(4), targets=2**60 + np.arange(4)),
        "'targets' that float32 cannot tell apart: 4 different ones become 1, such as 1152921504606846977 in row 2 (",
    ),
    "unsigned numbers that float64 rounds": (
        npz(inputs=np.ones(4), targets=np.uint64(2**64 - 1) - np.arange(4, dtype=np.uint64)),
        "'targets' that float32 cannot tell apart: 4 different ones become 1, such as 18446744073709551615 in row 1 (",
    ),
    "several numbers of a row": (
        npz(inputs=np.full((3, 2), 2**53) + np.eye(3, 2, dtype=np.int64), targets=np.zeros(3)),
        "'inputs' that float32 cannot tell apart, such as 9007199254740993 in row 1 (index 0)",
    ),
    "long numbers in a table": (
        write("data.csv", "id,target\n" + "".join(f"{2**53 + i},{i % 2}\n" for i in range(4))),
        "'id' that float32 cannot tell apart: 4 different ones become 1, such as 9007199254740993 in line 3;",
    ),
    "dates": (npz(inputs=np.ones(2), targets=np.array(["2020-01-01"] * 2, "M8[s]")), "dtype datetime64[s], expected"),
    "beyond float32": (npz(inputs=np.ones(2), targets=np.array([1, 1e39])), "'targets' beyond float32"),
    "semicolons": (write("data.csv", "a;target\n1;2\n"), "semicolons between its columns, expected commas"),
    "tabs": (write("data.csv", "a\ttarget\n1\t2\n"), "tabs between its columns, expected commas"),
    "stamps in a table": (
        write("data.csv", "when,target\n" + "".join(f"{1_700_000_000 + i},{i % 2}\n" for i in range(240))),
        "data.csv: found values in 'when' that float32 cannot tell apart: 240 different ones become 3",
    ),
    "another name": (npz(input=np.ones(4), targets=np.zeros(4)), "Did you mean 'input'? Known: input, targets."),
    "unequal": (npz(inputs=np.ones(4), targets=np.zeros(3)), "4 examples and 'targets' has 3"),
    "one number": (npz(inputs=np.ones(4), targets=np.float32(1)), "single value"),
    "empty folder": (lambda folder: (folder / "d").mkdir() or folder / "d", "nothing called 'inputs'"),
    "garbage npy": (damaged_folder, "reading magic string"),
    "header only": (write("data.csv", "a,target\n"), "found 1 lines, expected a header and at least one row"),
    "empty csv": (write("data.csv", ""), "found 0 lines"),
    "no header": (write("data.csv", "1,2\n3,4\n"), "expected a header of distinct column names"),
    "twice a name": (write("data.csv", "a,a,target\n1,2,3\n"), "expected a header of distinct column names"),
    "a word": (
        write("data.csv", "a,target\n1,2\n\nred,4\n"),
        "data.csv: line 4, column 1 ('a'): found 'red', expected a number",
    ),
    "underscores": (
        write("data.csv", "a,target\n1,2\n1_000,4\n"),
        "data.csv: line 3, column 1 ('a'): found '1_000', expected a number",
    ),
    "a gap": (write("data.csv", "a,target\n1,2\n1,\n"), "line 3, column 2 ('target'): found '', expected a number"),
    "ragged": (write("data.csv", "a,target\n1,2\n1,2,3\n"), "line 3: found 3 columns under a header of 2"),
    "short header": (write("data.csv", "a,target\n1,2,3\n"), "line 2: found 3 columns under a header of 2"),
    "nan": (write("data.csv", "a,target\nnan,2\n"), "not finite"),
    "no target": (write("data.csv", "a,targets\n1,2\n"), "Did you mean 'targets'?"),
    "not text": (write("data.csv", b"a,target\n\xff\xfe,1\n"), "utf-8"),
}


@pytest.mark.parametrize(("make", "text"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_in_one_line(tmp_path, make, text):
    with pytest.raises(DataError) as caught:
        arrays(str(make(tmp_path)), batch_size=1)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("test", [0.0, 1.0, -0.5, 3.0])
def test_a_share_must_be_one(tmp_path, test):
    with pytest.raises(ConfigError, match="expected the path of a file or a share between 0 and 1"):
        arrays(str(save_npz(tmp_path)), test=test)


def test_test_files_must_match_the_training_file(tmp_path):
    (tmp_path / "other").mkdir()
    other = save_npz(tmp_path / "other", inputs=INPUTS[:, :2], targets=TARGETS)
    with pytest.raises(
        DataError, match=r"split 'test': 'inputs' holds float32\[2\] for each example, expected float32\[3\]"
    ):
        arrays(str(save_npz(tmp_path)), test=str(other), batch_size=4)


@pytest.mark.parametrize("target", [2**31, 2**40, -(2**33)])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_integers_beyond_int32_are_what_floats_are(tmp_path, dtype, target):
    path = save_npz(tmp_path, inputs=np.ones(4), targets=np.array([0, 1, 2, target], dtype))
    data = arrays(str(path), test=0.25, batch_size=1)
    targets = np.concatenate([data.arrays["targets"], *(batch["targets"][:1] for batch in data.eval("test"))])
    assert targets.dtype == np.float32
    assert sorted(targets) == sorted([0, 1, 2, target])


def test_what_whole_numbers_lose_is_told(tmp_path, caplog):
    path = save_npz(tmp_path, inputs=np.ones(3), targets=np.array([0, 2**31 + 1, 2**32]))
    arrays(str(path), test=0.3, batch_size=1)
    assert f"data: {path}: 'targets' holds whole numbers beyond 2**24, which float32 rounds by" in caplog.text


@pytest.mark.parametrize("fractional", ["train", "test"])
def test_fractions_in_one_of_two_tables_make_both_real(tmp_path, fractional):
    for name in ("train", "test"):
        rows = [f"{i},{i + (0.5 if name == fractional else 0)}" for i in range(4)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,target", *rows]))
    data = arrays(str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"), batch_size=2, eval_batch_size=4)
    (batch,) = data.eval("test")
    assert (data.spec["targets"].dtype, batch["targets"].dtype) == (np.float32, np.float32)
    wanted = np.arange(4) + (0.5 if fractional == "test" else 0)
    np.testing.assert_array_equal(batch["targets"], wanted)


def test_examples_know_their_line_in_the_file(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,target\n" + "".join(f"{i},{i}\n\n" for i in range(20)))
    data = arrays(str(path), test=0.25, validation=0.25, batch_size=1)
    for _, examples, where in data.examples():
        for row, target in enumerate(examples["targets"]):
            assert where(row) == f"{path}, line {2 + 2 * target}"
