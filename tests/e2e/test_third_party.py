"""A separate project adds plugins and an experiment by being installed, and takes them along when it is uninstalled."""

from __future__ import annotations

import json

import pytest
import yaml

pytestmark = pytest.mark.slow

OWNER = "framework-hello 0.1.0"
ADDED = {
    "Fourier",
    "spiral_net",
    "short_of_margin",
    "beyond_margin",
    "spirals",
    "mean_teacher",
    "hello",
    "draw-spirals",
}


@pytest.fixture(scope="module")
def installed(fresh_environment, wheel, hello_wheel):
    return fresh_environment(wheel, hello_wheel)


@pytest.fixture(scope="module")
def run_folder(installed, tmp_path_factory):
    return train(installed, tmp_path_factory.mktemp("empty"), "train.steps=300")


def train(environment, folder, *overrides):
    done = environment.run("python", "-m", "framework", "+experiment=hello", *overrides, cwd=folder)
    assert done.returncode == 0, done.stderr
    (run_folder,) = (folder / "runs" / "hello").iterdir()
    return run_folder


def record(run_folder):
    return json.loads((run_folder / "run.json").read_text())


def owners(run_folder):
    """Return the distribution of the component under each config key."""
    return {key: f"{p['distribution']} {p['version']}" for key, p in record(run_folder)["plugins"].items()}


def test_its_experiment_trains_from_an_empty_folder(run_folder):
    ended = record(run_folder)
    assert (ended["name"], ended["status"], ended["exit_code"], ended["total_steps"]) == ("hello", "done", 0, 300)
    assert ended["data"].startswith("two spirals")
    assert ended["metrics"]["eval/beyond_margin"] > 0.95


def test_the_run_folder_holds_the_usual_files_and_its_callbacks(run_folder):
    usual = {"config.yaml", "lock", "run.json", "run.log", "metrics.jsonl", "checkpoints"}
    assert {path.name for path in run_folder.iterdir()} == {*usual, "hello steps=300", "hello.txt"}
    share = record(run_folder)["metrics"]["eval/beyond_margin"]
    assert (run_folder / "hello.txt").read_text() == f"hello: eval/beyond_margin is {share:.4f} after 300 steps\n"


def test_the_run_record_says_which_components_are_its(run_folder):
    theirs = {key for key, owner in owners(run_folder).items() if owner == OWNER}
    assert theirs == {"model", "loss", "data", "metrics.beyond_margin", "callbacks.hello"}
    assert owners(run_folder)["optimizer"].startswith("framework ")


def test_its_layer_stands_in_a_list_of_layers(installed, tmp_path):
    found = owners(train(installed, tmp_path, "model=fourier_stack", "train.steps=2"))
    assert (found["model.layers[0].Fourier"], found["model"].split()[0]) == (OWNER, "framework")


def test_its_task_trains_and_is_loaded_with_its_own_state(installed, tmp_path):
    folder = train(installed, tmp_path, "task=mean_teacher", "task.decay=0.9", "train.steps=300")
    assert (owners(folder)["task"], owners(folder)["loss"]) == (OWNER, OWNER)
    ended = record(folder)["metrics"]
    assert ended["eval/beyond_margin"] > 0.75
    assert {"train/loss", "train/distance", "train/beyond_margin"} <= ended.keys()
    program = (
        "import sys, jax, framework; trained = framework.load(sys.argv[1]); shapes = jax.tree.map(jax.numpy.shape, "
    )
    program += (
        "(trained.params, trained.task_state)); assert shapes[0] == shapes[1]; print(trained([[0.1, 0.2]]).shape)"
    )
    assert installed.run("python", "-c", program, folder, cwd=tmp_path).stdout == "(1, 1)\n"


def test_the_listing_names_its_distribution_and_version(installed, tmp_path):
    listed = installed.run("framework", "plugins", cwd=tmp_path).stdout.splitlines()
    assert {line.split()[0] for line in listed if OWNER in line} == ADDED
    assert not any("BROKEN" in line for line in listed)


def test_its_verb_is_listed_runs_and_has_help(installed, tmp_path):
    overview = installed.run("framework", "help", cwd=tmp_path).stdout.splitlines()
    (line,) = [line for line in overview if "draw-spirals" in line]
    assert line.split() == [
        "draw-spirals",
        "draw",
        "the",
        "two",
        "spirals",
        "in",
        "the",
        "terminal",
        f"({OWNER.split()[0]}",
        "0.1.0)",
    ]
    drawn = installed.run("framework", "draw-spirals", "--turns", "2", cwd=tmp_path)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert set(drawn.stdout) == set("ox \n")
    shown = installed.run("framework", "draw-spirals", "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: framework draw-spirals [options]\n")
    refused = installed.run("framework", "draw-spirals", "--turn", "2", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error[config]: draw-spirals: no such option '--turn'. Did you mean '--turns'?")


def test_its_experiment_whose_batches_have_no_weights_is_measured(installed, tmp_path):
    done = installed.run("framework", "bench", "+experiment=hello", "--seconds", "0.05", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "evaluation" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_its_names_can_be_chosen_without_a_file_for_each(installed, tmp_path):
    words = ["model=spiral_net", "loss=short_of_margin", "metrics=[beyond_margin]", "data=spirals", "callbacks=[hello]"]
    shown = yaml.safe_load(installed.run("framework", "--cfg", "job", *words, cwd=tmp_path).stdout)
    assert shown["model"] == {"name": "spiral_net", "hidden": [64, 64]}
    assert (shown["loss"], shown["data"]) == ({"name": "short_of_margin"}, {"name": "spirals"})
    assert (list(shown["metrics"]), list(shown["callbacks"])) == (["beyond_margin"], ["hello"])


def test_uninstalling_it_leaves_nothing_of_it(fresh_environment, wheel, hello_wheel, tmp_path):
    environment = fresh_environment(wheel)
    files, listing = environment.files(), environment.run("framework", "plugins", cwd=tmp_path).stdout
    environment.install(hello_wheel)
    assert environment.run("framework", "--cfg", "job", "+experiment=hello", cwd=tmp_path).returncode == 0
    environment.pip("uninstall", "--yes", "framework-hello")

    assert environment.files() == files
    assert environment.run("framework", "plugins", cwd=tmp_path).stdout == listing != ""
    refused = environment.run("framework", "+experiment=hello", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error[config]: experiment=hello: no such config.")
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
