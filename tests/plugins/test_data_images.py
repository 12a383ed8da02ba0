"""Image sets are looked for in the known places, and another set takes MNIST's place when it cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import struct
from pathlib import Path

import jax
import numpy as np
import pytest

from framework.errors import DataError
from framework_data.digits import digits
from framework_data.download import UnavailableError
from framework_data.idx import IdxFile
from framework_data.images import ImageSet, load_images
from framework_data.mnist import FASHION_MNIST, MNIST, fashion_mnist, mnist

REAL = [
    *filter(None, os.environ.get("FRAMEWORK_DATA", "").split(os.pathsep)),
    Path(__file__).parents[2].parent / "shared" / "data",
]
CLOSED = "http://127.0.0.1:9/"  # nothing listens on the discard port


def encode(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_set():
    """An image set of 12 + 5 images, and the content of its files."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 12), ("t10k", 5)):
        arrays[f"{part}-images-idx3-ubyte"] = random.integers(0, 256, (count, 4, 4), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = random.integers(0, 10, count, np.uint8)
    content = {name: encode(array) for name, array in arrays.items()}
    files = tuple(
        IdxFile(name, arrays[name].shape, hashlib.sha256(data).hexdigest(), 10 if "labels" in name else 256)
        for name, data in content.items()
    )
    return ImageSet("mnist", "Small MNIST", files, (CLOSED,), (), 0.5, 0.25), content


SMALL, CONTENT = small_set()
IMAGES = SMALL.files[0]


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path, monkeypatch):
    """No test sees the user's data, cache or proxy."""
    for name in ("FRAMEWORK_DATA", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put(folder, zipped=True, leave_out=()):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in CONTENT.items():
        if name not in leave_out:
            path = folder / f"{name}.gz" if zipped else folder / name
            path.write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inner", ["", "mnist"])
def test_root_holds_the_files_or_their_folder(tmp_path, zipped, inner):
    folder = put(tmp_path / "root" / inner, zipped)
    train, test, source, ready, scale, _ = load_images(SMALL, str(tmp_path / "root"), normalize=False)
    ready()
    pixels = np.frombuffer(CONTENT[IMAGES.name], np.uint8, offset=16).reshape(12, 4, 4, 1)
    assert train["inputs"].dtype == np.uint8
    np.testing.assert_array_equal(train["inputs"], pixels)
    for batch in (scale(train), jax.jit(scale)(train)):
        np.testing.assert_allclose(batch["inputs"], pixels / 255, rtol=1e-6)
        assert batch["inputs"].dtype == np.float32
        np.testing.assert_array_equal(batch["targets"], train["targets"])
    assert train["targets"].tolist() == list(CONTENT["train-labels-idx1-ubyte"][8:])
    assert train["targets"].dtype == np.int32
    assert test["inputs"].shape == (5, 4, 4, 1)
    assert source == f"Small MNIST, 12 + 5 images in {folder}"
    scaled = load_images(SMALL, str(tmp_path / "root"), normalize=True)
    scaled.ready()
    np.testing.assert_allclose(scaled.scale(scaled.train)["inputs"], (pixels / 255 - 0.5) / 0.25, rtol=1e-6, atol=1e-6)


def test_places_are_asked_in_order(tmp_path, monkeypatch):
    places = [tmp_path / "first" / "mnist", tmp_path / "second" / "mnist", tmp_path / "cache/framework/mnist"]
    places.append(tmp_path / "system")
    monkeypatch.setenv("FRAMEWORK_DATA", os.pathsep.join(["", str(tmp_path / "first"), str(tmp_path / "second")]))
    images = SMALL._replace(folders=(str(tmp_path / "system"),))
    for place in reversed(places):
        put(place)
        assert load_images(images, None, normalize=True).source.endswith(f"in {place}")


def test_files_missing_from_root_are_not_looked_for_elsewhere(tmp_path, monkeypatch):
    put(tmp_path / "elsewhere" / "mnist")
    monkeypatch.setenv("FRAMEWORK_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"not in data.root: looked for train-images-idx3-ubyte\[.gz\] in .*root"):
        load_images(SMALL, str(tmp_path / "root"), normalize=True)


@pytest.mark.parametrize("by_root", [True, False])
def test_an_incomplete_folder_is_refused_by_name(tmp_path, monkeypatch, by_root):
    folder = put(tmp_path / "data" / "mnist", leave_out=["t10k-labels-idx1-ubyte"])
    monkeypatch.setenv("FRAMEWORK_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=f"{folder} lacks t10k-labels-idx1-ubyte, expected all four") as caught:
        load_images(SMALL, str(tmp_path / "data") if by_root else None, normalize=True)
    assert not isinstance(caught.value, UnavailableError)


@pytest.mark.parametrize("place", ["root", "data/mnist", "cache/framework/mnist"])
@pytest.mark.parametrize("damage", ["cut", "dangling"])
def test_a_damaged_file_is_an_error_wherever_it_lies(tmp_path, monkeypatch, place, damage):
    monkeypatch.setenv("FRAMEWORK_DATA", str(tmp_path / "data"))
    path = put(tmp_path / place) / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-20])
    else:
        path.symlink_to("nowhere")
    monkeypatch.setattr("framework_data.mnist.MNIST", SMALL)
    with pytest.raises(DataError, match=f"{path}: found .* expected .* Replace the file, or remove it"):
        mnist(4, 4, root=str(tmp_path / "root") if place == "root" else None).ready()


def test_without_mnist_one_line_says_what_takes_its_place(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("framework_data.mnist.MNIST", SMALL)
    with caplog.at_level(logging.WARNING, logger="framework"):
        data = mnist()
    (record,) = caplog.records
    line = record.getMessage()
    assert record.name == "framework"
    for part in (
        f"Small MNIST is not in {tmp_path}/cache/framework/mnist",
        "127.0.0.1:9: Connection refused",
        "Put its four files into",
        "the 1,797 handwritten digits that ship with the package",
        "resized to 28×28",
    ):
        assert part in line
    assert "\n" not in line
    assert "in place of MNIST" in data.source
    assert data.spec == digits().spec
    assert np.array_equal(data.arrays["inputs"], digits().arrays["inputs"])


def test_offline_error_refuses_the_fallback(monkeypatch, caplog):
    monkeypatch.setattr("framework_data.mnist.MNIST", SMALL)
    with pytest.raises(DataError, match=r"and cannot be downloaded .*Put its four files into .* or give their folder"):
        mnist(offline="error")
    assert caplog.records == []


def test_fashion_mnist_has_no_fallback(monkeypatch):
    monkeypatch.setattr("framework_data.mnist.FASHION_MNIST", SMALL._replace(title="Small Fashion"))
    with pytest.raises(DataError, match="Small Fashion is not in"):
        fashion_mnist()


@pytest.mark.parametrize("factory", [mnist, fashion_mnist])
def test_factories_pass_their_options_on(tmp_path, monkeypatch, factory):
    put(tmp_path / "root")
    monkeypatch.setattr("framework_data.mnist.MNIST", SMALL)
    monkeypatch.setattr("framework_data.mnist.FASHION_MNIST", SMALL)
    data = factory(
        batch_size=3, eval_batch_size=2, root=str(tmp_path / "root"), validation=4, train_limit=7, normalize=False
    )
    assert data.splits == ("validation", "test")
    assert data.steps_per_epoch == 7 // 3
    assert data.spec["inputs"] == jax.ShapeDtypeStruct((3, 4, 4, 1), np.float32)
    assert sum(batch["weights"].sum() for batch in data.eval("validation")) == 4
    assert next(data.train(0))["inputs"].min() >= 0


def real_folder(name):
    return next((str(folder) for folder in map(Path, REAL) if (folder / name).is_dir()), None)


@pytest.mark.parametrize(
    ("name", "factory", "images", "folder"),
    [
        ("mnist", mnist, MNIST, real_folder("mnist")),
        ("fashion_mnist", fashion_mnist, FASHION_MNIST, real_folder("fashion_mnist") or FASHION_MNIST.folders[0]),
    ],
)
def test_the_real_set_verifies_and_is_normalised(name, factory, images, folder):
    if folder is None or not Path(folder).is_dir():
        pytest.skip(f"{name} is not on this machine; $FRAMEWORK_DATA names the folder that holds it")
    data = factory(root=folder)
    inputs, targets = data.prepare(data.arrays)["inputs"], data.arrays["targets"]
    assert inputs.shape == (60_000, 28, 28, 1)
    assert abs(inputs.mean(dtype=np.float64)) < 1e-3
    assert abs(inputs.std(dtype=np.float64) - 1) < 1e-3
    assert (np.bincount(targets) > 5000).all()
    assert sum(batch["weights"].sum() for batch in data.eval("test")) == 10_000
    assert data.source.startswith(f"{images.title}, 60,000 + 10,000 images in ")
