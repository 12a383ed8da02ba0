"""Media of callbacks stand once for each step, in files and in every sink, however often a run was killed."""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import framework
from framework import testing
from framework.errors import PluginError, StorageError

PROGRAMS = Path(__file__).parents[2] / "programs"
WORDS = ["train.steps=8", "train.log_every=4", "train.eval_every=4", "callbacks=[gallery,tensorboard,sink,checkpoint]"]
WORDS += ["callbacks.checkpoint.every=4"]
ENDINGS = {
    "about": ["txt"],
    "end": ["txt"],
    "last": ["labels.tsv", "sprites.png", "tsv"],
    "of/zero": ["csv"],
    "outputs": ["json"],
    "rows": ["csv"],
    "samples/grid": ["png"],
    "samples/scores": ["png"],
    "sound": ["wav"],
}


@pytest.fixture
def gallery(install):
    """The callbacks `gallery` and `sink`, installed; the module that they note in."""
    text = (PROGRAMS / "gallery.py").read_text()
    site = install(
        "galleries",
        {"framework.callbacks": {"gallery": "gallery:gallery", "sink": "gallery:sink"}},
        {"gallery.py": text},
    )
    module = importlib.import_module("gallery")
    assert Path(module.__file__).parent == site
    return module


def files(folder):
    """Contents by path below `media`, with hidden files."""
    place = Path(folder) / "media"
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def points(folder, steps):
    """The paths of all points of these steps, of a run that ended at the last one."""
    expected = [f"about/{0:08d}.txt", f"end/{steps[-1]:08d}.txt"]
    others = {tag: endings for tag, endings in ENDINGS.items() if tag not in ("about", "end")}
    expected += [f"{tag}/{step:08d}.{end}" for tag, ends in others.items() for step in steps for end in ends]
    return sorted(expected)


def in_tensorboard(folder):
    """Steps by tag of all media in TensorBoard."""
    guide = {"tensors": 0}
    accumulator = EventAccumulator(str(next(folder.glob("*/events.*")).parent), size_guidance=guide).Reload()
    tags = {tag.removeprefix("~"): tag for tag in accumulator.Tags()["tensors"]}
    return {name: [event.step for event in accumulator.Tensors(tag)] for name, tag in tags.items() if name in ENDINGS}


def test_files_and_sinks_have_each_point_once(tmp_path, gallery):
    run = testing.train(tmp_path, *WORDS)
    shown = files(run.directory)
    assert sorted(shown) == points(run.directory, [4, 8])
    assert shown["about/00000000.txt"] == b"a run of 8 steps"
    assert shown["end/00000008.txt"] == b"done"
    assert json.loads(shown["outputs/00000008.json"])["nan"] == 1
    targets = [row["target"] for row in csv.DictReader(shown["rows/00000004.csv"].decode().splitlines())]
    assert len(targets) == 5

    told = [(step, tag) for step, tag, _ in gallery.SHOWN]
    media = [tag for tag in ENDINGS if tag not in ("about", "end")]
    # The sink was started after `about` was shown, and had ended before `end` was.
    assert sorted(told) == sorted([(0, "about"), *((step, tag) for step in (4, 8) for tag in media)])
    curves = in_tensorboard(run.directory)
    assert curves == {"about": [0], **{tag: [4, 8] for tag in media if tag != "last"}}
    assert [path.name for path in sorted(run.directory.glob("*/projector/*"))] == [
        "last@8.1x10.png",
        "last@8.labels.tsv",
        "last@8.tsv",
    ]


STRATEGIES = [
    "jit",
    "eager",
    "pmap",
    "sharded",
    "sharded strategy.fsdp=2 strategy.data=1",
    "vmapped strategy.members=2",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_predictions_are_those_of_the_trained_model_under_every_strategy(tmp_path, gallery, strategy):
    watched = "debug=off" if strategy == "eager" else "debug=transfers"  # op by op, each constant is a transfer
    run = testing.train(tmp_path, *WORDS, *f"strategy={strategy}".split(" "), "ema=0.5", watched)
    assert sorted(files(run.directory)) == points(run.directory, [4, 8])
    inputs, outputs = gallery.PREDICTED[-1]
    assert isinstance(outputs, np.ndarray) and inputs.shape == (5, 6)
    np.testing.assert_allclose(outputs, run.model(inputs), rtol=1e-5)


@pytest.mark.parametrize("killed_at", [4, 8])
def test_a_killed_run_that_goes_on_has_the_media_of_one_that_was_left_alone(tmp_path, gallery, killed_at):
    whole = testing.train(tmp_path, *WORDS).directory
    folder = tmp_path / "killed"
    site = Path(gallery.__file__).parent
    words = [*testing.TINY, *WORDS, f"run.dir={folder}", "strategy=jit"]
    command = [sys.executable, str(PROGRAMS / "killed_after_save.py"), str(killed_at), "train", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert killed.returncode == 137, killed.stderr
    (folder / "media" / "sound" / "00000099.wav").write_bytes(b"of a step that was not saved")
    (folder / "media" / "sound" / ".00000004.wav.partial").write_bytes(b"half")
    (folder / "media" / "notes.txt").write_bytes(b"the user's own")
    framework.resume(folder)
    shown = files(folder)
    assert shown.pop("notes.txt") == b"the user's own"
    # A run that goes on says so at the step where it does.
    assert shown.pop(f"about/{killed_at:08d}.txt", None) == b"a run of 8 steps"
    assert shown == files(whole)
    curves, expected = in_tensorboard(folder), in_tensorboard(whole)
    assert curves.pop("about") == [0, killed_at]
    assert curves == {tag: steps for tag, steps in expected.items() if tag != "about"}


def test_an_extended_run_adds_media_and_one_that_starts_over_keeps_none(tmp_path, gallery):
    run = testing.train(tmp_path, *WORDS, "callbacks.gallery.stop=4")
    assert run.status == "stopped" and sorted(files(run.directory)) == points(run.directory, [4])
    framework.resume(run.directory, ["callbacks.gallery.stop=0", "train.steps=12"])
    expected = {*points(run.directory, [4]), *points(run.directory, [4, 8, 12]), "about/00000004.txt"}
    assert set(files(run.directory)) == expected
    (run.directory / "metrics.jsonl").unlink()
    for step in (4, 8, 12):
        shutil.rmtree(run.directory / "checkpoints" / str(step))
    framework.resume(run.directory, ["train.steps=4"])
    assert sorted(files(run.directory)) == points(run.directory, [4])


BAD = [
    (
        "callbacks.gallery.bad=[1,2]",
        "image 'samples/scores' cannot be shown: pixels are int64[2], expected [H, W, C]",
    ),
    (
        "callbacks.gallery.tag=../up",
        "the tag is '../up/scores', expected words between slashes, such as 'samples/digits'",
    ),
    ("callbacks.gallery.tag=''", "the tag is '/scores', expected words between slashes"),
]


@pytest.mark.parametrize(("word", "told"), BAD)
def test_what_cannot_be_shown_names_callback_and_tag(tmp_path, gallery, word, told):
    with pytest.raises(PluginError) as caught:
        testing.train(tmp_path, *WORDS, word)
    assert testing.message(caught).startswith("callback 'gallery' (galleries 1.0): ") and told in testing.message(
        caught
    )


def test_a_link_among_the_media_is_refused(tmp_path, gallery):
    run = testing.train(tmp_path, *WORDS)
    (tmp_path / "outside").mkdir()
    (run.directory / "media" / "later").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match="media/later is a symbolic link"):
        framework.resume(run.directory, ["train.steps=12"])
