"""The built wheel, on its own, in folders whose files bear the names of the project's."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

RAISING = "raise ImportError('a file of the working directory was imported')\n"
COMMANDS = [("python", "-m", "framework"), ("framework",)]


@pytest.fixture(scope="module")
def environment(fresh_environment, wheel):
    return fresh_environment(wheel)


@pytest.fixture(params=COMMANDS, ids=" ".join)
def framework(request, environment, tmp_path):
    """Either command, in a folder of someone else's; one named `framework` would hide the module, not the script."""
    names = ["conf", "plugins", "tests", *(["framework"] if request.param == ("framework",) else [])]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(RAISING)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [nothing: of_ours]\n: rubbish\n")
    return lambda *words: succeed(environment.run(*request.param, *words, cwd=tmp_path))


def succeed(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_all_sources_and_nothing_else(wheel, sources):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    kept = {".py", ".yaml", ".typed", ".npz", ".gz", ".LICENSE"}
    homes = {"framework": "framework", "conf": "framework_conf", "plugins": "."}
    expected = [
        (Path(home) / path.relative_to(sources / folder)).as_posix()
        for folder, home in homes.items()
        for path in (sources / folder).rglob("*")
        if path.suffix in kept
    ]
    assert sorted(names) == sorted(expected)
    assert {"framework/__main__.py", "framework_conf/experiment/mnist.yaml", "framework_data/digits.npz"} <= set(names)


def test_it_carries_the_licences(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.partition(".dist-info/licenses/")[2] for name in names if ".dist-info/licenses/" in name}
    assert held == {"LICENSE", *(f"plugins/framework_data/{name}.LICENSE" for name in ("digits", "shakespeare"))}


def test_its_dependencies_are_satisfied_by_what_it_declares(environment):
    assert "No broken requirements" in environment.pip("check")


def test_help_and_the_composed_config_are_its_own(framework):
    assert "experiments: autoencoder, " in framework("--help")
    composed = yaml.safe_load(framework("--cfg", "job", "+experiment=mnist"))
    assert (composed["model"]["name"], composed["data"]["name"]) == ("cnn", "mnist")


def test_it_trains(framework, tmp_path):
    framework("data=digits", "model=mlp", "model.hidden=[8]", "train.steps=2")
    (recorded,) = tmp_path.glob("runs/default/*/run.json")
    ended = json.loads(recorded.read_text())
    assert (ended["status"], ended["total_steps"]) == ("done", 2)
    assert "digits that ship with the package" in ended["data"]


def test_it_takes_a_folder_of_experiments(framework, tmp_path):
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "# @package _global_\ndefaults: [override /data: synthetic]\nmodel: {hidden: [8]}\ntrain: {steps: 2}\n"
    )
    framework("--config-dir", "./mine", "+experiment=own")
    (recorded,) = tmp_path.glob("runs/own/*/run.json")
    assert json.loads(recorded.read_text())["data"].startswith("synthetic")
