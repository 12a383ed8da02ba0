"""Guarantees of every task: equal numbers under each strategy, however a run is cut into calls, stopped or killed.

To add a task, add a row to `TASKS`: the words of a run whose step takes milliseconds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import nullcontext

import jax.numpy as jnp
import numpy as np
import pytest

import framework
from framework import testing
from framework.data.batches import check_examples
from framework.errors import ConfigError, DataError
from framework.registry.entry_points import discover
from framework_data.pipeline import InMemoryPipeline
from framework_tasks.arrays import above, outside_unit

FLAT = ["data=synthetic", "data.shape=[6]", "data.examples=64", "data.batch_size=16", "data.eval_batch_size=16"]
IMAGES = ["data=digits", "data.size=8", "data.normalize=false", "data.batch_size=16", "data.train_limit=64"]
CODES = ["encoder.hidden=[8]", "decoder.hidden=[8]", "decoder.classes=64"]
EPISODES = ["data.batch_size=4", "data.episodes=4", "data.eval_batch_size=4", "environment.limit=20"]
PLAYERS = [*EPISODES, "task.steps=8", "policy.hidden=[8]", "value.hidden=[8]"]
BOTH = ["encoder.layers=[Flatten,{Dense: 8}]", "projector.layers=[{Dense: 8}]", "predictor.layers=[{Dense: 8}]"]
PAIR = ["generator.layers=[{Dense: 64}]", "discriminator.layers=[Flatten,{Dense: 8},Relu,{Dense: 1}]"]
TEXT = ["data.path=FOLDER/text.txt", "data.batch_size=4", "data.block=8", "model.context=8", "model.layers=1"]

TASKS = {
    "supervised": [*IMAGES, "model.hidden=[8]", "data.transform=[{gaussian_noise: {scale: 0.1}}]"],
    "gan": [*IMAGES, *PAIR, "task.latent=4", "task.updates=2"],
    "autoencoder": [*IMAGES, *CODES, "encoder.classes=4", "task.noise_level=0.1"],
    "vae": [*IMAGES, *CODES, "encoder.classes=8"],
    "contrastive": [*IMAGES, *BOTH, "data.transform=[{gaussian_noise: {scale: 0.3}}]"],
    "diffusion": [*IMAGES, "task.steps=4", "model.width=8", "model.blocks=1"],
    "language_model": [*TEXT, "model.width=8", "model.heads=2", "task.sample=8", "task.prompt=4"],
    "distillation": [*FLAT, "model.hidden=[4]", "teacher.run=FOLDER/teacher"],
    "policy_gradient": PLAYERS,
    "ppo": [*PLAYERS, "task.epochs=2", "task.minibatches=2"],
}

STEPS = 6
PERIODS = ["train.log_every=1", "train.eval_every=3", "train.checkpoint_every=3", "callbacks=[checkpoint]"]
SINGLE = "train.steps_per_call=1"

STRATEGIES = {
    "pmap": (["strategy=pmap"], STEPS),
    "sharded": (["strategy=sharded"], STEPS),
    "members": (["strategy=vmapped", "strategy.members=2"], STEPS),
    "eager": (["strategy=eager"], 2),
}
"""Words beside those of the row, and steps; numbers agree with one device's to rounding."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for runs, with a text, and a teacher that was trained."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "text.txt").write_text("a step, a key, a batch; and so the next one. " * 20)
    framework.run([*FLAT, "model.hidden=[8]", "train.steps=4", "callbacks=[checkpoint]", f"run.dir={folder}/teacher"])
    return folder


def words(task, folder):
    row = [word.replace("FOLDER", str(folder)) for word in TASKS[task]]
    return [f"task={task}", *(["data=text", "model=transformer"] if task == "language_model" else []), *row, *PERIODS]


def shown_by_one(line):
    """Return the numbers of the first member, or of a run that has no members."""
    first = {tag.removesuffix("/0"): value for tag, value in line.items() if tag.endswith("/0")}
    return first or line


@pytest.mark.parametrize("task", [pytest.param(task, marks=[pytest.mark.slow] * (task != "gan")) for task in TASKS])
def test_numbers_are_equal_however_and_wherever_the_steps_run(task, folder, tmp_path):
    def run(*more):
        return framework.run([*words(task, folder), f"train.steps={STEPS}", f"run.root={tmp_path}", *more])

    one = run(SINGLE)
    expected = testing.records(one)
    assert [line["step"] for line in expected] == list(range(STEPS + 1))
    assert one.metrics["eval/loss" if "eval/loss" in one.metrics else "train/loss"] != 0

    chunks = run("train.steps_per_call=4")
    assert testing.records(chunks) == expected
    testing.assert_same_bits(chunks.state, one.state)

    stopped = tmp_path / "stopped"
    shutil.copytree(one.directory, stopped)
    shutil.rmtree(stopped / "checkpoints" / str(STEPS))
    record = stopped / "run.json"
    record.write_text(record.read_text().replace('"exit_code": 0', '"exit_code": 1'))
    resumed = framework.resume(stopped)
    assert testing.records(resumed) == expected
    testing.assert_same_bits(resumed.state, one.state)

    for name, (more, steps) in STRATEGIES.items():
        half = run(SINGLE, *more, f"train.steps={steps // 2}")
        whole = testing.records(framework.resume(half.directory, [f"train.steps={steps}", "train.steps_per_call=4"]))
        for line, wanted in zip(whole, expected[: steps + 1], strict=True):
            found = shown_by_one(line)
            same = {tag: value for tag, value in wanted.items() if tag in found and not tag.startswith("eval/")}
            assert "train/loss" in same or line["step"] == 0, name
            assert {tag: found[tag] for tag in same} == pytest.approx(same, rel=2e-3, abs=1e-4), name


@pytest.mark.slow
def test_a_killed_run_whose_environments_are_its_state_goes_on_bit_equal(folder, tmp_path):
    plan = [*words("ppo", folder), "train.steps=120"]
    straight = framework.run([*plan, f"run.dir={tmp_path}/straight"])
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "framework", *plan, f"run.dir={killed}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (killed / "checkpoints" / "3").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    resumed = framework.resume(killed)
    assert testing.records(resumed) == testing.records(straight)
    testing.assert_same_bits(resumed.state, straight.state)


def test_every_task_of_ours_has_a_row():
    ours = {plugin.name for plugin in discover().named("tasks") if plugin.distribution == "framework"}
    assert ours == TASKS.keys()


@pytest.mark.parametrize(
    "words",
    [
        ["task=gan", "task.updates=0"],
        ["task=vae", "task.beta=-1"],
        ["task=autoencoder", "task.noise_level=-1"],
        ["task=diffusion", "task.steps=1"],
        ["task=contrastive", "task.decay=2"],
        ["task=language_model", "task.top_k=-1"],
        ["task=language_model", "task.prompt=0"],
    ],
    ids=lambda words: words[-1],
)
def test_an_option_out_of_range_is_named_by_its_key(words, tmp_path):
    data = [] if "task=language_model" in words else ["data=digits"]
    with pytest.raises(ConfigError) as caught:
        framework.run([*words, *data, f"run.dir={tmp_path}/run"])
    assert caught.value.key == words[-1].partition("=")[0]


@pytest.mark.parametrize("task", ["vae", "gan", "diffusion"])
def test_pixels_that_are_no_shares_are_refused(task, tmp_path):
    with pytest.raises(DataError, match=r"found a number outside \[0, 1\].*set data\.normalize=false"):
        framework.run([f"task={task}", "data=digits", f"run.dir={tmp_path}/run"])


@pytest.mark.parametrize("largest", [255, 128])
def test_bytes_are_checked_as_they_are_scaled(largest):
    def scaled(batch):
        return {**batch, "inputs": batch["inputs"].astype(np.float32) / np.float32(largest)}

    examples = {"inputs": np.full((40, 3), 255, np.uint8), "targets": np.zeros(40, np.int32)}
    data = InMemoryPipeline(examples, {"test": examples}, 4, 4, "bytes", prepare=scaled)
    with pytest.raises(DataError, match="example 1 ") if largest < 255 else nullcontext():
        check_examples(data, outside_unit)


def test_a_trained_gan_takes_noise_and_no_raw_images(folder, tmp_path):
    run = framework.run([*words("gan", folder), "train.steps=1", f"run.root={tmp_path}"])
    gan, noise = framework.load(run.directory), np.ones((3, 4), np.float32)
    np.testing.assert_allclose(gan.predict(noise), gan(noise), rtol=1e-6)
    assert repr(gan.generator) == "Part(320 parameters)"
    with pytest.raises(ConfigError, match="'eval/loss' of this task does not say which"):
        framework.load(f"{run.directory}@best")


def test_each_example_stands_above_its_output():
    inputs, outputs = jnp.zeros((5, 4, 3, 1)), jnp.ones((5, 4, 3, 1))
    assert above(inputs, outputs).shape == (5, 8, 3, 1)
    assert above(inputs, outputs)[:, :4].sum() == 0
    assert above(inputs[..., 0, 0], outputs[..., 0, 0]).shape == (10, 4)
