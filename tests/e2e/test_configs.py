"""Every YAML file in conf/ composes, builds, and runs one step."""

from __future__ import annotations

from pathlib import Path

import framework_conf
import numpy as np
import pytest
import yaml

import framework
import framework_data.mnist
from framework import testing
from framework.registry.kinds import MAPPINGS, OF_SWEEPS

ROOT = Path(framework_conf.__file__).parent
SMALL = ["data=digits", "data.batch_size=16", "data.eval_batch_size=100", "train.steps=1", "callbacks=[]"]
CHOICES = [
    (group.name, path.stem)
    for group in sorted(ROOT.iterdir())
    if group.is_dir() and group.name not in ("experiment", "debug", "__pycache__", *OF_SWEEPS)
    for path in sorted(group.glob("*.yaml"))
]
TOGETHER = (("optimizer", "metrics", "callbacks"), ("strategy", "schedule"))
"""Groups whose choices have nothing to do with each other: a run takes one of each."""

REGRESSION = ["data=arrays", "data.train={folder}/regression.npz"]

PLAYED = ["data=episodes", "task.steps=8", "policy.hidden=[8]", "value.hidden=[8]"]

NEEDS = {
    # What a config cannot do without, or what makes it fit the digits.
    ("loss", "binary_cross_entropy"): [
        "data=arrays",
        "data.train={folder}/binary.npz",
        "model.classes=1",
        "metrics=[]",
    ],
    **{("loss", name): REGRESSION for name in ("squared_error", "absolute_error", "huber")},
    **{("metrics", name): [*REGRESSION, "loss=squared_error"] for name in ("mae", "mse", "r2", "rmse")},
    ("metrics", "subset_accuracy"): [
        "data=arrays",
        "data.train={folder}/labels.npz",
        "model.classes=3",
        "loss=binary_cross_entropy",
    ],
    ("metrics", "auc"): [
        "data=arrays",
        "data.train={folder}/binary.npz",
        "model.classes=1",
        "loss=binary_cross_entropy",
    ],
    **{("task", name): PLAYED for name in ("policy_gradient", "ppo")},
    **{("environment", name): ["task=ppo", *PLAYED] for name in ("cartpole", "pendulum", "gymnax")},
    ("environment", "grid_world"): ["task=ppo", *PLAYED, "policy.classes=4"],
    ("data", "episodes"): ["task=ppo", *PLAYED],
    **{("model", name): ["model.classes=10"] for name in ("policy_mlp", "value_mlp")},
    ("loss", "weighted"): ["loss.losses={{one: {{name: softmax_cross_entropy}}}}"],
    ("strategy", "pbt"): ["strategy.space={{optimizer.learning_rate: {{low: 1e-4, high: 1}}}}"],
    ("model", "trained"): ["model.run={folder}/teacher"],
    ("model", "denoiser"): ["task=diffusion", "data.normalize=false"],
    **{("task", name): ["data.normalize=false"] for name in ("vae", "gan", "diffusion")},
    ("task", "contrastive"): ["data.transform=[{{gaussian_noise: {{scale: 0.1}}}}]"],
    ("task", "distillation"): ["model=mlp", "model.hidden=[8]", "teacher.run={folder}/teacher"],
    ("task", "language_model"): ["data=text", "model.layers=1", "model.width=16", "task.sample=4"],
    ("data", "text"): ["model=transformer", "model.layers=1", "model.width=16"],
    ("model", "transformer"): ["data=text", "model.layers=1", "model.width=16"],
    ("data", "arrays"): ["data.train={folder}/binary.npz", "model.classes=2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three small data sets of a user's own, and a trained model."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(64, 6)).astype(np.float32)
    path = tmp_path_factory.mktemp("data")
    np.savez(path / "binary.npz", inputs=inputs, targets=(inputs[:, 0] > 0).astype(np.int32))
    np.savez(path / "labels.npz", inputs=inputs, targets=(inputs[:, :3] > 0).astype(np.int32))
    np.savez(path / "regression.npz", inputs=inputs, targets=random.normal(size=(64, 10)).astype(np.float32))
    framework.run([*SMALL, "model=mlp", "model.hidden=[8]", "callbacks=[checkpoint]", f"run.dir={path}/teacher"])
    return path


def runs():
    """Choices that are made together: those of `TOGETHER`, as many as its longest group has, and others alone."""
    free = [choice for choice in CHOICES if choice not in NEEDS]
    for groups in TOGETHER:
        columns = [[choice for choice in free if choice[0] == group] for group in groups]
        for row in range(max(map(len, columns))):
            yield [column[row] for column in columns if row < len(column)]
    for choice in CHOICES:
        if choice not in free or not any(choice[0] in groups for groups in TOGETHER):
            yield [choice]


@pytest.mark.parametrize("choices", list(runs()), ids=lambda choices: " ".join(map("=".join, choices)))
def test_every_choice_of_every_group_runs_one_step(choices, folder, tmp_path):
    if {name for _, name in choices} & {"mnist", "fashion_mnist"}:
        pytest.skip("needs a download; the experiment's own test runs it where the data are")
    if "gymnax" in {name for _, name in choices}:
        pytest.importorskip("gymnax", reason="plays environments of gymnax, which need gymnax")
    extra = [word.format(folder=folder) for choice in choices for word in NEEDS.get(choice, [])]
    chosen = any(word.startswith(("model=", "task=")) for word in extra) or choices[0][0] in ("model", "task")
    words = [*SMALL, *([] if chosen else ["model=mlp", "model.hidden=[8]"]), *extra]
    words += [f"{group}=[{name}]" if group in MAPPINGS else f"{group}={name}" for group, name in choices]
    result = framework.run([*words, f"run.root={tmp_path}"])
    assert "callbacks" in dict(choices) or np.isfinite(result.metrics["eval/loss"])
    assert int(result.state.step.max()) == 1
    config = yaml.safe_load((result.directory / "config.yaml").read_text())
    for group, name in choices:
        if group in MAPPINGS:
            assert name in config[group]
            continue
        content = yaml.safe_load((ROOT / group / f"{name}.yaml").read_text())
        assert config[group]["name"] == content.get(group, content)["name"]  # the package _global_ names its section


def test_no_choice_is_left_out():
    assert sorted(choice for choices in runs() for choice in choices) == sorted(CHOICES)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "debug").glob("*.yaml")))
def test_every_debug_switch_composes(name):
    from framework.config.compose import compose

    debug = compose([f"debug={name}"]).settings.debug
    assert sum(value not in (None, False) for value in debug) == (name != "off")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiment").glob("*.yaml")))
def test_every_experiment_runs_one_step_and_is_made_again_bit_for_bit(name, tmp_path, monkeypatch):
    digits = ["+experiment=mnist", "data=digits", "train.steps=1", f"run.dir={tmp_path}/teacher"]
    more = [f"teacher.run={framework.run(digits).directory}"] if name == "distillation" else []
    # Nowhere to find MNIST and nowhere to download it from: the digits that ship with us stand in.
    monkeypatch.setattr(framework_data.mnist, "MNIST", framework_data.mnist.MNIST._replace(mirrors=()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FRAMEWORK_DATA", raising=False)
    result = framework.run([f"+experiment={name}", *more, "train.steps=1", f"run.root={tmp_path}"])
    assert int(result.state.step.max()) == 1
    again = testing.command("reproduce", str(result.directory), "--to", f"{tmp_path}/again")
    assert again.code == 0, again.err
    assert again.out.startswith("same bits: ")


DIGITS = ["data=digits", "data.batch_size=8", "data.eval_batch_size=500"]
PLAYS = ["task.steps=8"]
ONE_LAYER = ["data.batch_size=2", "model.layers=1"]
SHORT = {
    # What makes an experiment small enough to be run three times, in processes of their own.
    **dict.fromkeys(("autoencoder", "contrastive", "distillation", "gan", "mnist", "vae"), DIGITS),
    **dict.fromkeys(("cartpole", "pendulum"), PLAYS),
    **dict.fromkeys(("char_gpt", "language_model"), ONE_LAYER),
    "diffusion": ["data.batch_size=8"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiment").glob("*.yaml")))
def test_every_experiment_that_is_killed_and_resumed_is_the_one_left_alone(name, folder, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    more = [f"teacher.run={folder}/teacher"] if name == "distillation" else []
    tried = testing.command("verify-resume", f"+experiment={name}", *SHORT[name], *more, "--steps", "4", "--kills", "1")
    assert tried.code == 0, tried.out + tried.err
    assert tried.out.startswith("same: killed and resumed, ") and "killed at      3" in tried.out
