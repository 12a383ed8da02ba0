"""Views of a classifier: pictures of the right pixels, in files and in every tab of the real TensorBoard."""

from __future__ import annotations

import csv
import json
import struct
import wave

import numpy as np
import pytest

import framework
from framework import testing
from framework.api import leaves_by_path
from framework.errors import ConfigError
from framework_callbacks import pictures
from framework_callbacks.views import views
from tests.plugins.test_tensorboard import patiently, real_tensorboard

RANDOM = np.random.default_rng(0)


def test_captions_are_green_where_right_and_red_where_wrong():
    images = RANDOM.uniform(size=(2, 9, 9, 1))
    found = pictures.captioned(images, np.array([7, 12]), np.array([7, 3]))
    assert found.shape == (2, 16, 17, 3) and found.min() >= 0 and found.max() <= 1
    colours = [
        {tuple(pixel) for pixel in np.round(one[9:].reshape(-1, 3).astype(np.float64), 2).tolist()} for one in found
    ]
    assert colours == [{(1.0, 1.0, 1.0), (0.1, 0.6, 0.2)}, {(1.0, 1.0, 1.0), (0.85, 0.1, 0.1)}]
    drawn = found[0, 10:15, 1:4, 2] < 1
    assert ["".join(".#"[bit] for bit in row) for row in drawn.astype(int)] == ["###", "..#", ".#.", ".#.", ".#."]
    low, high = images.min(), images.max()
    np.testing.assert_allclose(found[1, :9, 4:13, 0], (images[1, ..., 0] - low) / (high - low), rtol=1e-6)


def test_a_heat_map_is_darker_where_more_examples_are():
    cells = pictures.heat_map(np.array([[3, 1], [0, 8]]))
    assert cells.shape == (32, 32, 3)
    shades = [cells[row * 16 + 8, column * 16 + 8].sum() for row, column in ((1, 1), (0, 0), (0, 1), (1, 0))]
    assert shades == sorted(shades)


@pytest.mark.parametrize("constant", [0.0, np.nan])
def test_pixels_of_one_value_or_of_none_are_black(constant):
    assert pictures.spread(np.full((1, 2, 2, 1), constant)).tolist() == [[[[0.0], [0.0]], [[0.0], [0.0]]]]


FILTERS = [((3, 3, 1, 5), (8, 8, 1), (5, 26, 26, 1)), ((64, 70), (8, 8, 1), (64, 26, 26, 1)), ((5, 4), (5,), None)]
FILTERS += [((7, 4), (8, 8, 1), None), ((3, 3, 2, 4), (8, 8, 2), None)]


@pytest.mark.parametrize(("weights", "inputs", "shape"), FILTERS)
def test_filters_of_images_are_pictures(weights, inputs, shape):
    found = pictures.filters(RANDOM.normal(size=weights), inputs)
    assert (None if found is None else found.shape) == shape


@pytest.mark.parametrize("option", [{"every": -1}, {"examples": 0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))}: expected"):
        views(**option)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment mnist on shipped digits, for a few steps."""
    words = ["+experiment=mnist", "data=digits", "data.batch_size=32", "train.steps=4", "train.eval_every=2"]
    words += ["callbacks.views.every=2", "probes.histograms.every=2"]
    return framework.run([*words, f"run.root={tmp_path_factory.mktemp('runs')}", "train.log_every=1"])


def test_files_say_what_the_model_says(run):
    media = run.directory / "media"
    targets = [int(line) for line in (media / "features/00000004.labels.tsv").read_text().splitlines()]
    features, leaves = np.loadtxt(media / "features/00000004.tsv", delimiter="\t"), leaves_by_path(run.state.params)
    outputs = features @ np.asarray(leaves["10_Dense/W"]) + np.asarray(leaves["10_Dense/b"])
    predicted = outputs.argmax(1)
    wrong = np.flatnonzero(predicted != targets)
    with (media / "examples/mistakes_table/00000004.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert 0 < len(rows) == min(25, len(wrong)) and {int(row["example"]) for row in rows} <= set(wrong.tolist())
    for row in rows:
        example = int(row["example"])
        assert (int(row["class"]), int(row["taken for"])) == (targets[example], predicted[example])
    certainties = [float(row["certainty"]) for row in rows]
    assert certainties == sorted(certainties, reverse=True) and 0.1 <= certainties[-1] <= certainties[0] <= 1
    header = (media / "confusion/matrix/00000004.png").read_bytes()[16:24]
    assert struct.unpack(">II", header) == (160, 160)  # width and height
    parameters = {
        path.parent.relative_to(media / "parameters").as_posix() for path in media.rglob("parameters/**/*4.json")
    }
    layers = ("0_Conv", "3_Conv", "7_Dense", "10_Dense")
    assert parameters == {f"{layer}/{name}" for layer in layers for name in "Wb"}
    counts = json.loads((media / "parameters/10_Dense/b/00000004.json").read_text())["counts"]
    assert sum(counts) == 10
    probed = media / "probe/histograms"
    assert {path.name for path in (probed / "gradients").iterdir()} == set(layers)
    counts = json.loads((probed / "gradients/10_Dense/00000004.json").read_text())["counts"]
    assert sum(counts) == 128 * 10 + 10
    counts = json.loads((probed / "activations/8_Relu/00000004.json").read_text())["counts"]
    assert sum(counts) == 32 * 128 and counts[0] > 32, "of 32 examples, and many are 0"


TABS = {
    "images": {"~confusion/matrix", "~examples/mistakes", "~examples/predicted", "~filters/first"},
    "histograms": {
        *("~parameters/0_Conv/W", "~outputs/scores", "~outputs/certainty"),
        *("~probe/histograms/gradients/0_Conv", "~probe/histograms/activations/8_Relu"),
    },
    "pr_curves": {f"classes/{number}" for number in range(10)},
    "text": {"run/chosen", "run/config", "run/facts", "run/parameters", "examples/mistakes_table"},
    "scalars": {"train/loss", "train/accuracy", "eval/loss", "eval/accuracy", "train/learning_rate", "~progress/epoch"},
}


def test_every_tab_of_the_real_program_is_filled(run):
    with real_tensorboard(run.directory.parent.parent) as (get, server):
        patiently(lambda: "text" in get("plugins_listing") and get("plugin/text/tags"), server)
        (name,) = get("plugin/scalars/tags")
        assert name.split("/")[-1].startswith("mnist data=digits")
        for plugin, expected in TABS.items():
            tags = get(f"plugin/{plugin}/tags")[name]
            assert expected <= set(tags), plugin
        assert set(get("plugin/distributions/tags")[name]) == set(get("plugin/histograms/tags")[name])
        images = get("plugin/images/images", run=name, tag="~confusion/matrix", sample=0)
        assert [each["step"] for each in images] == [2, 4]
        bins = get("plugin/histograms/histograms", run=name, tag="~probe/histograms/gradients/0_Conv")
        assert [step for _, step, _ in bins] == [2, 4]
        curves = get("plugin/pr_curves/pr_curves", run=name, tag="classes/0")[name]
        assert [curve["step"] for curve in curves] == [2, 4] and len(curves[0]["precision"]) > 1
        table = get("plugin/text/text", run=name, tag="examples/mistakes_table")
        assert [each["step"] for each in table] == [2, 4] and "<th>certainty</th>" in table[-1]["text"]
        graphs = get("plugin/graphs/info")[name]
        (tag,) = graphs["tags"]
        assert graphs["run_graph"] is True and graphs["tags"][tag]["profile"] is True and "1 ms is 1 MFlop" in tag
        (shown,) = patiently(lambda: get("plugin/projector/runs"), server)
        embedding = get("plugin/projector/info", run=shown)["embeddings"][0]
        assert embedding["tensorName"] == "features, step 4" and embedding["sprite"]["singleImageDim"] == [28, 28]
        assert embedding["tensorShape"] == [300, 128]


def test_models_that_are_no_classifiers_show_what_fits(tmp_path):
    words = ["data.task=regression", "loss=squared_error", "metrics=[]", "callbacks=[views]"]
    run = testing.train(tmp_path, *words, "train.steps=4", "callbacks.views.every=2")
    shown = {path.relative_to(run.directory / "media").parts[0] for path in (run.directory / "media").rglob("*.*")}
    assert shown == {"parameters"}
    only = testing.train(tmp_path, "train.steps=4", "callbacks=[views]", "callbacks.views.show=[confusion]")
    shown = {path.parent.name for path in (only.directory / "media").rglob("*.*")}
    assert shown == {"matrix"}


WAVES = """
from framework_data.synthetic import synthetic


def waves():
    pipeline = synthetic(shape=(50,), batch_size=16)
    pipeline.facts = {"sample_rate": 8000}
    return pipeline
"""


def test_examples_of_sounds_can_be_heard(tmp_path, install):
    install("acme", {"framework.data": {"waves": "acme_waves:waves"}}, {"acme_waves.py": WAVES})
    words = ["~data", "+data={name: waves}", "model=mlp", "callbacks=[views,tensorboard]", "train.steps=1"]
    run = framework.run([*words, "callbacks.views.show=[sounds]", f"run.dir={tmp_path}/run"])
    sounds = sorted((run.directory / "media" / "examples").glob("*/*.wav"))
    assert [path.parent.name for path in sounds] == [f"sound_{number}" for number in range(4)]
    with wave.open(str(sounds[0])) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (8000, 50, 1)
        samples = np.frombuffer(file.readframes(50), np.int16)
    assert 1000 < np.abs(samples).max() <= 32767


ASKS = """
import numpy as np
from framework.api import Callback


class Asks(Callback):
    def on_start(self, run):
        self.run = run

    def on_state(self, step, state):
        inputs = self.run.examples("eval", 5)["inputs"]
        found = {"features": self.run.features(state, inputs), "outputs": self.run.predict(state, inputs)}
        np.savez(self.run.directory / "asked.npz", **found)
"""


@pytest.mark.parametrize("strategy", ["jit", "pmap", "vmapped"])
def test_features_are_those_of_the_model_or_of_the_first_member(tmp_path, install, strategy):
    install("acme", {"framework.callbacks": {"asks": "acme_asks:Asks"}}, {"acme_asks.py": ASKS})
    run = testing.train(tmp_path, "train.steps=1", "callbacks=[asks]", f"strategy={strategy}")
    with np.load(run.directory / "asked.npz") as found:
        features, outputs = found["features"], found["outputs"]
    leaves = leaves_by_path(run.state.params)
    weights, bias = (np.asarray(leaves[path]) for path in list(leaves)[-2:])
    if strategy == "vmapped":
        weights, bias = weights[0], bias[0]
    assert features.shape == (5, len(weights))
    np.testing.assert_allclose(features @ weights + bias, outputs, rtol=1e-4, atol=1e-5)
