"""Media are made from what callbacks have, in any of its forms, and refused in words; their files open in programs."""

from __future__ import annotations

import csv
import io
import json
import re
import wave

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from framework.api import Audio, Embedding, Figure, Histogram, Image, PRCurve, Table, Text

IMREAD = pytest.importorskip("matplotlib.image").imread
RANDOM = np.random.default_rng(0)


def decoded(content):
    """The pixels of a PNG file as another library reads them: uint8 [H, W] or [H, W, C]."""
    return np.round(IMREAD(io.BytesIO(content), format="png") * 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5)])
def test_an_image_is_a_png_of_the_same_pixels(shape, channels):
    pixels = RANDOM.integers(0, 256, (*shape, channels), dtype=np.uint8)
    shown = decoded(Image.of(pixels).files()["png"])
    np.testing.assert_array_equal(shown.reshape(*shape, -1)[..., :channels], pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16, bool])
def test_real_pixels_go_from_0_to_1(dtype):
    given = np.array([0.0, 1.0]) if dtype is bool else np.array([0.0, 0.25, 1.0, -3.0, 7.0, np.nan])
    shown = Image.of(given.reshape(1, -1, 1).astype(dtype)).pixels
    assert shown.ravel().tolist() == [0, 255] if dtype is bool else [0, 64, 255, 0, 255, 0]


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (5, 2, 3), (9, 3, 3)])
def test_several_images_are_a_grid(count, rows, columns):
    images = RANDOM.integers(0, 256, (count, 4, 3, 1), dtype=np.uint8)
    sheet = Image.of(images).pixels
    assert sheet.shape == (rows * 5 - 1, columns * 4 - 1, 1)
    for place, image in enumerate(images):
        top, left = place // columns * 5, place % columns * 4
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 3], image)


def test_a_histogram_counts_what_is_finite_and_what_is_not():
    values = np.concatenate([RANDOM.normal(size=1000), [np.nan, np.nan, np.inf, -np.inf, np.inf]])
    found = Histogram.of(jnp.asarray(values, jnp.float32).reshape(-1, 5))
    counts, edges = np.histogram(values[:1000].astype(np.float32).astype(np.float64), 30)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.edges, edges)
    assert (found.nan, found.infinite) == (2, 3)
    told = json.loads(found.files()["json"])
    assert (sum(told["counts"]), told["nan"], told["infinite"]) == (1000, 2, 3)
    assert Histogram.of(found).counts is found.counts


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [1e308, -1e308], [True, False], np.arange(5, dtype=np.uint8)])
def test_histograms_of_odd_values_have_sound_bins(values):
    found = Histogram.of(values)
    assert np.isfinite(found.edges).all() and (np.diff(found.edges) > 0).all()
    assert found.counts.sum() + found.nan + found.infinite == np.size(values)


def test_a_table_from_mappings_or_from_rows():
    rows = [{"place": "a|b", "loss": np.float32(0.5)}, {"place": "c, d", "step": jnp.int32(3)}]
    table = Table.of(rows)
    assert table == Table(["place", "loss", "step"], [["a|b", 0.5, None], ["c, d", None, 3]])
    assert Table.of(Table(("place", "loss", "step"), table.rows)) == table
    columns = {name: [row[place] for row in table.rows] for place, name in enumerate(table.columns)}
    assert Table.of(columns)._replace(rows=table.rows) == table == Table.of(Table.of(columns))
    lines = list(csv.reader(table.files()["csv"].decode().splitlines()))
    assert lines == [["place", "loss", "step"], ["a|b", "0.5", ""], ["c, d", "", "3"]]
    assert table.markdown().splitlines()[2] == "| a\\|b | 0.5 |  |"


@pytest.mark.parametrize("weights", [None, RANDOM.uniform(size=200)])
def test_a_curve_counts_as_scikit_learn_does(weights):
    labels, scores = RANDOM.integers(0, 2, 200), RANDOM.uniform(size=200)
    scores[:4] = [0, 1, 0.5, 0.5]
    curve = PRCurve.of((labels, scores) if weights is None else (labels, scores, weights))
    for place in (0, 31, 63, 100, 126):
        said = (scores >= curve.thresholds[place]).astype(int)
        common = {"sample_weight": weights, "zero_division": 0}
        assert curve.precision[place] == pytest.approx(precision_score(labels, said, **common))
        assert curve.recall[place] == pytest.approx(recall_score(labels, said, **common))
    totals = sum(np.stack(curve[1:]))
    np.testing.assert_allclose(totals, 200 if weights is None else weights.sum())
    assert len(curve.files()["csv"].decode().splitlines()) == 128


def test_an_embedding_with_labels_and_sprites():
    vectors, sprites = RANDOM.normal(size=(5, 3)), RANDOM.integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
    files = Embedding.of(Embedding(vectors, ["a", "b\tc", "d", "e", "f"], sprites)).files()
    read = np.array([line.split("\t") for line in files["tsv"].decode().splitlines()], float)
    np.testing.assert_allclose(read, vectors, rtol=1e-6)
    assert files["labels.tsv"].decode().splitlines() == ["a", "b c", "d", "e", "f"]
    sheet = decoded(files["sprites.png"])
    assert sheet.shape[:2] == (12, 12)  # as many rows as columns, as the projector counts them
    np.testing.assert_array_equal(sheet.reshape(12, 12, -1)[4:8, 4:8, :1], sprites[4])
    assert list(Embedding.of(vectors).files()) == ["tsv"]


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100)])
def test_a_sound_is_a_wav_of_the_same_samples(channels, rate):
    samples = np.clip(RANDOM.normal(size=(100, channels)), -1, 1)
    sound = Audio.of(Audio(samples[:, 0] if channels == 1 else samples, rate))
    with wave.open(io.BytesIO(sound.files()["wav"])) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (channels, rate, 100)
        read = np.frombuffer(file.readframes(100), "<i2").reshape(-1, channels)
    np.testing.assert_allclose(read / 32767, samples, atol=1 / 32767)
    np.testing.assert_array_equal(Audio.of((read, rate)).samples, read)


def test_a_figure_is_drawn():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([1, 2])
    assert Figure.of(figure).pixels.shape == (50, 100, 3)


REFUSED = [
    (Image, np.zeros(4), "pixels are float64[4], expected [H, W, C] or [N, H, W, C] with 1, 3 or 4 channels"),
    (Image, np.zeros((3, 4, 2)), "pixels are float64[3, 4, 2], expected [H, W, C]"),
    (Image, np.zeros((0, 4, 4, 1)), "pixels are float64[0, 4, 4, 1], expected"),
    (Image, np.zeros((3, 4, 1), int), "pixels are int64[3, 4, 1], expected uint8, or real numbers from 0 to 1"),
    (Histogram, np.zeros(3, complex), "values are complex128[3], expected real numbers"),
    (Histogram, "words", "values are <U5[], expected real numbers"),
    (Histogram, Histogram(np.zeros(3), np.zeros(3)), "edges are float64[3] and counts float64[3], expected"),
    (Text, 3, "the text is int, expected str"),
    (Table, "words", "the table is str, expected Table(columns, rows) or a list of mappings"),
    (Table, Table(["a", "b"], [[1, 2], [3]]), "row 1 has 1 cells, expected one for each of 2"),
    (Table, {"a": [1, 2], "b": [3]}, "columns have the lengths {'a': 2, 'b': 1}, expected the same"),
    (Table, [{"a": np.zeros(2)}], "a cell is float64[2], expected a text, a number or None"),
    (PRCurve, np.zeros(3), "the curve is float64[3], expected (labels, scores)"),
    (
        PRCurve,
        (np.zeros(3), np.zeros(4)),
        "labels float64[3], scores float64[4], weights float64[4], expected [N] each",
    ),
    (PRCurve, ([0, 2], [0.5, 0.5]), "labels other than 0 and 1, or scores beyond 0 to 1"),
    (Embedding, np.zeros(3), "vectors are float64[3], expected real numbers [N, D]"),
    (Embedding, Embedding(np.zeros((3, 2)), ["a"]), "labels are 1, expected one for each of 3 vectors"),
    (Embedding, Embedding(np.zeros((1, 2)), None, np.zeros((1, 2, 2, 2))), "pixels are float64[1, 2, 2, 2], expected"),
    (Audio, np.zeros(3), "the sound is float64[3], expected Audio(samples, rate)"),
    (Audio, (np.zeros(3), 0), "the rate is 0, expected a whole number of samples a second"),
    (Audio, (np.zeros(3, int), 10), "samples are int64[3, 1], expected int16, or real numbers from -1 to 1"),
    (Figure, "words", "the figure is str, expected matplotlib.figure.Figure"),
]


@pytest.mark.parametrize(("kind", "value", "told"), REFUSED)
def test_refusals_name_shapes_and_dtypes(kind, value, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        kind.of(value)
