"""A trained model is measured after its run as it was measured during it, and on other data as well."""

from __future__ import annotations

import csv
import json
import shutil
from signal import SIGTERM

import numpy as np
import pytest

import framework
from framework import testing
from framework.errors import ConfigError, StorageError
from framework.trained.evaluated import columns_of, evaluated, metrics_of, opened
from framework_after import unfinished

WORDS = ["train.steps=6", "train.checkpoint_every=3", "train.eval_every=3", "data.examples=200", "ema=0.5"]
WORDS += ["metrics=[accuracy,confusion,perplexity]", "callbacks=[checkpoint]"]
WORDS += ["data.classes=2", "model.classes=2", "debug.profile=[4,5]"]  # of steps that an evaluation does not have


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with evaluations and checkpoints at steps 3 and 6, whose test split has three batches."""
    return testing.train(tmp_path_factory.mktemp("run"), *WORDS)


def logged(run, step, tag="eval"):
    line = next(line for line in testing.records(run) if line["step"] == step)
    return {name.partition("/")[2]: value for name, value in line.items() if name.startswith(f"{tag}/")}


@pytest.mark.parametrize("step", [3, 6])
def test_the_numbers_are_those_of_the_run_bit_for_bit(run, step):
    assert framework.evaluate(f"{run.directory}@{step}") == logged(run, step)


def test_the_numbers_are_equal_for_every_size_of_a_batch_and_every_strategy(run):
    expected = logged(run, 6)
    for words in (["data.eval_batch_size=7"], ["data.eval_batch_size=40"], ["strategy=pmap"], ["strategy=sharded"]):
        found = framework.evaluate(run.directory, words)
        assert found == pytest.approx(expected, rel=1e-6)
        assert found["accuracy"] == expected["accuracy"]


def test_other_tasks_and_each_of_several_members_are_measured_as_in_their_run(tmp_path):
    words = ["train.steps=4", "train.eval_every=4", "callbacks=[checkpoint]"]
    members = testing.train(
        tmp_path, *words, "strategy=vmapped", "strategy.members={optimizer.learning_rate: [0, 0.1]}"
    )
    for member, tag in enumerate(("eval/loss/0", "eval/loss/1")):
        found = framework.evaluate(members.directory, member=member)["loss"]
        assert found == pytest.approx(testing.series(members, tag)[-1], rel=1e-6)
    assert framework.evaluate(members.directory, member="best") == framework.evaluate(members.directory, member=1)
    with pytest.raises(StorageError, match="holds 2 members, counted from 0; there is no 2"):
        framework.evaluate(members.directory, member=2)
    drawn = framework.run(["+experiment=vae", "data=digits", *words, f"run.root={tmp_path}"])
    assert framework.evaluate(drawn.directory) == logged(drawn, 4)


def test_other_data_other_splits_and_other_metrics_are_measured_on_request(tmp_path):
    draw = np.random.default_rng(0)
    parts = {name: (draw.normal(size=(n, 3)).astype(np.float32)) for name, n in (("train", 90), ("other", 41))}
    for name, inputs in parts.items():
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, targets=(inputs.sum(1) > 0).astype(np.int32))
    words = ["data=arrays", f"data.train={tmp_path}/train.npz", "data.batch_size=20", "model=mlp", "model.classes=2"]
    run = framework.run([*words, "train.steps=10", "callbacks=[checkpoint]", f"run.root={tmp_path}"])
    model = framework.load(run.directory)
    for file, word, split in (
        ("other", f"data.test={tmp_path}/other.npz", "test"),
        ("train", "data.test=0.2", "train"),
    ):
        found = framework.evaluate(run.directory, [word, "metrics+=f1"], split=split)
        with np.load(tmp_path / f"{file}.npz") as data:
            rows = np.arange(len(data["targets"]))
            if split == "train":  # 72 of 90, the last of four batches padded
                rows = np.random.default_rng(0).permutation(90)[18:]
            right = model.predict(data["inputs"][rows]).argmax(axis=1) == data["targets"][rows]
        assert found["accuracy"] == right.mean()
        assert any(name.startswith("f1") for name in found)
    with pytest.raises(ConfigError, match=r"no split 'validation' to evaluate. Known: test, train"):
        framework.evaluate(run.directory, split="validation")


def test_the_values_of_single_examples_are_those_of_the_examples_alone(run, tmp_path):
    done = testing.command("evaluate", str(run.directory), "--values", f"{tmp_path}/v.csv", "--worst", "3", "--json")
    report = json.loads(done.out)
    assert report["metrics"] == logged(run, 6)
    with (tmp_path / "v.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(report["examples"]))
    batches = list(opened(run.directory).experiment.data.eval("test"))
    inputs, targets = (
        np.concatenate([batch[name] for batch in batches])[: len(rows)] for name in ("inputs", "targets")
    )
    logits = run.model.predict(inputs).astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(rows)), targets]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([float(row["perplexity"]) for row in rows], np.exp(losses), rtol=1e-5)
    assert [int(row["predicted"]) for row in rows] == list(logits.argmax(axis=1))
    assert [int(row["target"]) for row in rows] == list(targets)
    assert [row["id"] for row in report["worst"]] == list(np.argsort(-losses)[:3])
    testing.command("evaluate", str(run.directory), "--values", f"{tmp_path}/v.npz")
    with np.load(tmp_path / "v.npz") as file:
        np.testing.assert_allclose(file["loss"], [float(row["loss"]) for row in rows])


@pytest.mark.parametrize("batches", [1, 2])
def test_an_evaluation_that_was_stopped_goes_on_to_the_same_numbers(run, tmp_path, batches):
    folder = shutil.copytree(run.directory, tmp_path / "run")
    words = ["metrics+=auc"] if batches == 2 else []  # it keeps the statistics of all examples
    subject = opened(folder, words)
    straight = evaluated(subject, "test", with_values=True)
    asked = iter(range(10))
    part = evaluated(subject, "test", True, stopping=lambda: SIGTERM if next(asked) == batches - 1 else None)
    assert (part.signal, part.batches, part.examples) == (SIGTERM, batches, 16 * batches)
    path = unfinished.path_of(subject, "test", words, True)
    unfinished.save(path, part)
    again = evaluated(subject, "test", True, unfinished.read(path))
    assert metrics_of(subject, again) == metrics_of(subject, straight)
    testing.assert_same_bits(columns_of(again), columns_of(straight))
    done = testing.command("evaluate", str(folder), *words, "--worst", "1", "--json")
    assert f"going on after {16 * batches} examples" in done.err
    assert json.loads(done.out)["metrics"] == metrics_of(subject, straight)
    assert not path.exists()
    assert "going on" not in testing.command("evaluate", str(folder), *words, "--worst", "1").err


def test_the_table_shows_the_numbers_of_the_run_beside_its_own(run):
    done = testing.command("evaluate", f"{run.directory}@3")
    assert done.out.splitlines()[0] == f"{run.directory}@3, split 'test'"
    value = f"{logged(run, 3)['accuracy']:.6g}"
    line = next(line.split() for line in done.out.splitlines() if line.startswith("accuracy"))
    assert line == ["accuracy", value, value]
    # train/accuracy is a mean over updates while they change the model, and no measure of the split.
    assert "in the run" not in testing.command("evaluate", f"{run.directory}@3", "--split", "train").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "evaluate: expected a run folder"),
        (["RUN", "--values", "v.txt"], "v.txt has the ending '.txt', expected one of .csv, .npz, .parquet"),
        (["RUN", "--values", "nowhere/v.csv"], "there is no folder"),
        (["RUN", "--worst", "-1"], "--worst: expected a number from 0, found -1"),
        (["RUN", "model.hidden=[9]"], "checkpoint"),
        (["RUN", "metrics+=nothing"], "nothing"),
        (["nowhere"], "nowhere is not a run folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(run, words, says):
    done = testing.command("evaluate", *(str(run.directory) if word == "RUN" else word for word in words))
    assert done.code in (2, 5)
    assert says in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("error[")


def test_the_best_run_of_a_sweep_is_found_by_its_table(tmp_path):
    words = [*testing.TINY, "train.steps=2", "train.eval_every=0", "optimizer.learning_rate=0.00001,0.1"]
    found = framework.sweep([*words, "launcher=turn", f"sweep.dir={tmp_path}/sweep"])
    assert found.best is not None
    run = found.directory / found.best.directory
    done = testing.command("evaluate", f"{tmp_path}/sweep@best", "--json")
    assert json.loads(done.out)["run"] == str(run)
    assert json.loads(done.out)["metrics"] == logged(run, 2)
    assert "is not a run folder" in testing.command("evaluate", f"{tmp_path}/sweep").err


def test_another_text_is_read_by_the_characters_of_the_run_in_an_evaluation_and_in_a_training(tmp_path, caplog):
    for name, content in {"own": "abcdefgh", "other": "efgh"}.items():
        (tmp_path / f"{name}.txt").write_text(content * 60)
    words = ["+experiment=char_gpt", "data.block=8", "data.batch_size=8", "train.steps=2", "train.eval_every=0"]
    words += ["model.width=8", "model.heads=1", "model.layers=1", f"run.root={tmp_path}"]
    run = framework.run([*words, f"data.path={tmp_path}/own.txt"])
    other, known = f"data.path={tmp_path}/other.txt", run.model.facts["characters"]
    words += [other, f"init_from={run.directory}", f"run.dir={tmp_path}/tuned", "run.resume=auto"]
    framework.run(words)
    tuned = framework.run([*words, "train.steps=3"])
    assert tuned.model.facts["characters"] == testing.run_record(tuned)["config"]["data"]["characters"] == known
    found = framework.evaluate(run.directory, [other])
    assert "otherwise" not in caplog.text
    assert found != framework.evaluate(run.directory, [other, f"data.characters={known[0]}efgh"])
    assert "prepared otherwise than those that the model was trained on: characters is" in caplog.text
