"""Every YAML file in conf/ composes, builds, and runs one step."""

from __future__ import annotations

from pathlib import Path

import framework_conf
import numpy as np
import pytest

import framework
import framework_data.mnist

ROOT = Path(framework_conf.__file__).parent
SMALL = ["data=digits", "data.batch_size=16", "data.eval_batch_size=100", "train.steps=1", "callbacks=[metrics_log]"]
CHOICES = [
    (group.name, path.stem)
    for group in sorted(ROOT.iterdir())
    if group.is_dir() and group.name not in ("experiment", "debug", "__pycache__")
    for path in sorted(group.glob("*.yaml"))
]
NEEDS = {
    # What a config cannot do without, or what makes it fit the digits.
    ("loss", "binary_cross_entropy"): [
        "data=arrays",
        "data.train={folder}/binary.npz",
        "model.classes=1",
        "metrics=[]",
    ],
    ("loss", "squared_error"): ["data=arrays", "data.train={folder}/regression.npz", "metrics=[]"],
    ("loss", "absolute_error"): ["data=arrays", "data.train={folder}/regression.npz", "metrics=[]"],
    ("loss", "huber"): ["data=arrays", "data.train={folder}/regression.npz", "metrics=[]"],
    ("metrics", "auc"): [
        "data=arrays",
        "data.train={folder}/binary.npz",
        "model.classes=1",
        "loss=binary_cross_entropy",
    ],
    ("data", "text"): ["model=transformer", "model.layers=1", "model.width=16"],
    ("model", "transformer"): ["data=text", "model.layers=1", "model.width=16"],
    ("data", "arrays"): ["data.train={folder}/binary.npz", "model.classes=2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two small data sets of a user's own."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(64, 6)).astype(np.float32)
    path = tmp_path_factory.mktemp("data")
    np.savez(path / "binary.npz", inputs=inputs, targets=(inputs[:, 0] > 0).astype(np.int32))
    np.savez(path / "regression.npz", inputs=inputs, targets=random.normal(size=(64, 10)).astype(np.float32))
    return path


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_of_every_group_runs_one_step(group, name, folder, tmp_path):
    if name in ("mnist", "fashion_mnist"):
        pytest.skip("needs a download; the experiment's own test runs it where the data are")
    extra = [word.format(folder=folder) for word in NEEDS.get((group, name), [])]
    listed = group in ("metrics", "callbacks")
    choice = f"{group}=[{name}]" if listed else f"{group}={name}"
    chosen = group == "model" or any(word.startswith("model=") for word in extra)
    model = [] if chosen else ["model=mlp", "model.hidden=[8]"]
    result = framework.run([*SMALL, *model, *extra, choice, f"run.root={tmp_path}"])
    assert np.isfinite(result.metrics["eval/loss"]) or group == "callbacks"
    assert int(result.state.step.max()) == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "debug").glob("*.yaml")))
def test_every_debug_switch_composes(name):
    from framework.config import plain, settings_of
    from framework.python import compose_config

    config, _ = compose_config([f"debug={name}"])
    debug = settings_of(plain(config)).debug
    assert sum(debug) == (name != "off")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiment").glob("*.yaml")))
def test_every_experiment_runs_one_step(name, tmp_path, monkeypatch):
    # Nowhere to find MNIST and nowhere to download it from: the digits that ship with us stand in.
    monkeypatch.setattr(framework_data.mnist, "MNIST", framework_data.mnist.MNIST._replace(mirrors=()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FRAMEWORK_DATA", raising=False)
    result = framework.run([f"+experiment={name}", "train.steps=1", f"run.root={tmp_path}"])
    assert int(result.state.step.max()) == 1
