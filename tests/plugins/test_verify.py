"""`verify-resume`: healthy runs are the same, and what third parties get wrong is found and named."""

from __future__ import annotations

import json
import re

import pytest

from framework import testing
from framework.api import Callback, StopTraining
from framework.commands.cli import main
from framework.errors import DifferenceError
from framework.experiment import NamedCallback
from framework.media.values import Text
from framework_verify import trail, verdict, verify, witness

TINY = [*testing.TINY, "model.dropout=0.25", "callbacks=[checkpoint]", "optimizer.learning_rate=0.01"]

ACME = """
import itertools
import jax
import jax.numpy as jnp
import numpy as np
import optax
from framework.api import Callback, Metric, Model, StopTraining, as_model
from jax.example_libraries import stax

np.random.seed(0)


def _batch(draw):
    return {"inputs": draw((16, 6)).astype(np.float32), "targets": np.arange(16, dtype=np.int32) % 10}


class Stream:
    steps_per_epoch, splits, source = 4, ("validation",), "noise"
    spec = {"inputs": jax.ShapeDtypeStruct((16, 6), np.float32), "targets": jax.ShapeDtypeStruct((16,), np.int32)}

    def __init__(self, fault):
        self.fault, self.kept = fault, np.random.default_rng(5)

    def train(self, seed, start=0):
        if self.fault == "refusing" and start:
            raise ValueError("this stream cannot be entered later")
        forgetful = np.random.default_rng(seed)
        for step in itertools.count(start):
            draws = {"forgetful": forgetful.normal, "global": lambda size: np.random.default_rng().normal(size=size)}
            yield _batch(lambda size: draws.get(self.fault, np.random.default_rng([seed, step]).normal)(size=size))

    def eval(self, split):
        random = self.kept if self.fault == "kept" else np.random.default_rng(1)
        yield {**_batch(lambda size: random.normal(size=size)), "weights": np.ones(16, np.float32)}


def stream(fault: str):
    return Stream(fault)


def jitter():
    def transform(bits, batch):
        shape = jax.ShapeDtypeStruct(batch["inputs"].shape, np.float32)
        noise = jax.pure_callback(lambda _: np.random.normal(size=shape.shape).astype(np.float32), shape, bits)
        return {**batch, "inputs": batch["inputs"] + noise}

    return lambda keys, batch: transform(jax.random.key_data(keys).ravel()[:1], batch)


def unseeded():
    return lambda keys, batch: {**batch, "inputs": batch["inputs"] + np.float32(np.random.default_rng().normal())}


def _counter():
    count = itertools.count()
    return lambda like: jax.pure_callback(lambda _: np.float32(next(count)), jax.ShapeDtypeStruct((), np.float32), like)


def warming(learning_rate: float = 0.1):
    calls = _counter()

    def update(updates, state, params=None):
        scale = -learning_rate / (1 + calls(jax.tree.leaves(updates)[0].sum()))
        return jax.tree.map(lambda update: scale * update, updates), state

    return optax.GradientTransformation(lambda params: (), update)


def drifting():
    inner, calls = as_model(stax.serial(stax.Dense(10))), _counter()

    def apply(params, state, inputs, *, key=None, train=False):
        outputs, state = inner.apply(params, state, inputs, key=key, train=train)
        return (outputs * (1 + calls(inputs.sum())) if train else outputs), state

    return Model(inner.init, apply)


def tally():
    calls = itertools.count()
    return Metric(lambda outputs, batch: outputs[:, 0], lambda total, count: float(next(calls)))


class Impatient(Callback):
    def on_start(self, run):
        self.seen = 0

    def on_log(self, step, scalars):
        self.seen += 1
        if self.seen == 6:
            raise StopTraining("six records are enough")


def impatient():
    return Impatient()


class Diary(Callback):
    def on_start(self, run):
        self.lines, self.path = [], run.directory / "diary.txt"

    def on_log(self, step, scalars):
        self.lines.append(f"{step}\\n")

    def on_end(self, summary):
        self.path.write_text("".join(self.lines))


def diary():
    return Diary()
"""

ENTRIES = {
    "data": ["stream"],
    "transforms": ["jitter", "unseeded"],
    "optimizers": ["warming"],
    "models": ["drifting"],
    "metrics": ["tally"],
    "callbacks": ["impatient", "diary"],
}

BROKEN = {
    "a stream that ignores start": (
        ["data=stream", "data.fault=forgetful"],
        ("the position in the data", "certain", ["data pipeline 'stream'"], "the data began anew: step "),
    ),
    "a stream that draws from outside the seed": (
        ["data=stream", "data.fault=global"],
        ("the data", "certain", ["data pipeline 'stream'"], "two runs that were left alone differ"),
    ),
    "a stream that cannot begin later": (
        ["data=stream", "data.fault=refusing"],
        ("the resume itself", "certain", [], "cannot be entered later"),
    ),
    "evaluation batches of a generator that is kept": (
        ["data=stream", "data.fault=kept"],
        ("the evaluation data", "certain", ["data pipeline 'stream'"], "split validation"),
    ),
    "a transform that draws from NumPy's generator": (
        ["data.transform=[jitter]"],
        ("the augmentation, the model or the loss", "likely", ["transform 'jitter'", "model 'mlp'"], "another loss"),
    ),
    "a transform whose draw is compiled into the step": (
        ["data.transform=[unseeded]"],
        ("the augmentation, the model or the loss", "likely", ["transform 'unseeded'"], "runs that were left alone"),
    ),
    "an optimizer that counts for itself": (
        ["optimizer=warming", "~optimizer.learning_rate"],
        ("the optimizer or its schedule", "likely", ["optimizer 'warming'"], "another update"),
    ),
    "a model that counts for itself": (
        ["model=drifting", "~model.hidden", "~model.dropout"],
        ("the augmentation, the model or the loss", "likely", ["model 'drifting'"], "another loss"),
    ),
    "a metric that counts for itself": (["metrics+=tally"], ("a metric", "likely", ["metric 'tally'"], "tally")),
    "a callback that counts and is not restored": (
        ["callbacks+=impatient"],
        (
            "a callback",
            "certain",
            ["callback 'impatient' (acme 1.0)"],
            "left alone was ended at step 4 by callback 'impatient'",
        ),
    ),
    "a callback whose file begins anew": (
        ["callbacks+=diary"],
        ("a callback", "certain", ["callback 'diary'"], "diary.txt"),
    ),
}


@pytest.fixture
def acme(install, monkeypatch, tmp_path):
    """Install a third party's faulty plugins, for child processes too."""
    groups = {f"framework.{kind}": {name: f"acme:{name}" for name in names} for kind, names in ENTRIES.items()}
    monkeypatch.setenv("PYTHONPATH", str(install("acme", groups, {"acme.py": ACME})))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def words_of(extra):
    """The tiny run, without what an override takes the place of."""
    taken = {word.partition("=")[0] for word in extra if not word.startswith(("~", "callbacks"))}
    gone = {word[1:] for word in extra if word.startswith("~")}
    replaced = [f"{group}." for group in taken if group in ("data", "model", "optimizer")]
    kept = [w for w in TINY if not w.startswith((*replaced, *(f"{g}=" for g in taken), *(f"{g}=" for g in gone)))]
    return [*kept, *(word for word in extra if not word.startswith("~"))]


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_what_a_plugin_gets_wrong_is_found_and_named(acme, fault):
    extra, (kind, certainty, suspects, because) = BROKEN[fault]
    report = verify.verify_resume(words_of(extra), steps=16, kills=1)
    assert report.verdict is not None
    assert (report.verdict.kind, report.verdict.certainty) == (kind, certainty)
    for suspect in suspects:
        assert any(label.startswith(suspect) for label in report.verdict.suspects), report.verdict
    assert because in report.verdict.because
    with pytest.raises(DifferenceError, match="acme 1.0" if suspects else "ended with 3"):
        report.check()
    assert report.folder.parent == acme
    assert {"straight", "killed"} <= {path.name for path in report.folder.iterdir()}


HEALTHY = {
    "chunks, data on the device": [],
    "a stop by the log": [
        # No loss falls by so much: it ends at the 13th record, which is read a step late.
        "callbacks+={early_stopping: {metric: train/loss, patience: 12, min_delta: 100}}",
        "train.log_every=1",
    ],
    "two devices": ["strategy=sharded", "callbacks.checkpoint.best=eval/loss", "train.eval_every=2"],
    "members": ["strategy=vmapped", "strategy.members=3"],
    "a sound plugin of a third party, whose batches are read ahead": [
        "data=stream",
        "data.fault=none",
        "metrics=[]",
        "train.steps_per_call=3",
        "nan_policy=skip",
        "ema=0.9",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HEALTHY)
def test_a_healthy_run_is_the_same_and_leaves_nothing(acme, monkeypatch, capsys, case):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    before = set(acme.iterdir())
    main(["verify-resume", *words_of(HEALTHY[case]), "--steps", "24", "--kills=2", "--seed", "3"])
    head, *table = capsys.readouterr().out.splitlines()
    assert head.startswith("same: killed and resumed, ")
    figures = dict(re.split("  +", line, maxsplit=1) for line in table)
    assert figures["steps"] == ("14" if case == "a stop by the log" else "24")
    assert figures["killed at"].count(" and ") == figures["resumed at"].count(" and ") == 1
    assert set(acme.iterdir()) == before


@pytest.mark.slow
def test_a_recorded_run_is_tried_and_a_difference_is_one_line_a_table_and_exit_code_8(acme, capfd):
    recorded = acme / "recorded"
    main([*words_of(BROKEN["a callback whose file begins anew"][0]), "train.steps=1", f"run.dir={recorded}"])
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["verify-resume", str(recorded), "train.steps=12", "--kills", "1"])
    table, error = capfd.readouterr()
    assert end.value.code == 8
    assert "diary.txt" in table
    *told, last = error.splitlines()
    assert all(line.startswith("run '") for line in told), "it says what it does"
    assert last.startswith("error[different]: a callback (certain): ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kills", "few"], "--kills: expected a whole number, found 'few'"),
        (["--kill", "2"], "no such option '--kill'. Did you mean '--kills'?"),
        (["--steps", "2"], "--steps: expected at least 4, found 2"),
        (["train.steps=3"], "--steps: expected at least 4, found 3"),
        (["distributed.coordinator=localhost:1"], "distributed: one process is tried"),
        (["modle=mlp"], "modle"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_a_run_starts(acme, capsys, words, message):
    before = set(acme.iterdir())
    with pytest.raises(SystemExit) as end:
        main(["verify-resume", *TINY, *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert set(acme.iterdir()) == before


def recorded(kind, name):
    plugin = {"kind": kind, "name": name, "distribution": "acme", "version": "1.0", "target": f"acme:{name}"}
    return {**plugin, "sources": "0123456789abcdef"}


RECORD = {
    "plugins": {
        "model": recorded("models", "serial"),
        "model.layers[0].Wide": recorded("layers", "Wide"),
        "optimizer": recorded("optimizers", "warming"),
    }
}


@pytest.mark.parametrize(
    ("path", "is_averaged", "keeper"),
    [
        ("params/0_Wide/W", False, "layer 'Wide'"),
        ("model_state/1_Other/mean", False, "model 'serial'"),
        ("opt_state/0/mu/0_Wide/W", False, "optimizer 'warming'"),
        ("opt_state/inner/0/mu/0_Wide/W", True, "optimizer 'warming'"),
        ("opt_state/average/0_Wide/W", True, "the core's average (ema)"),
        ("opt_state/average/0_Wide/W", False, "optimizer 'warming'"),
        ("key", False, "the core"),
    ],
)
def test_a_leaf_is_kept_by_the_component_that_made_it(path, is_averaged, keeper):
    assert verdict.owner(path, verdict.plugins_of(RECORD), is_averaged).startswith(keeper)


OPPONENTS = {
    "plugins": {
        "task": recorded("tasks", "duel"),
        "maker": recorded("models", "painter"),
        "maker_optimizer": recorded("optimizers", "warming"),
    }
}


@pytest.mark.parametrize(
    ("path", "keeper"),
    [
        ("params/maker/0_Dense/W", "model 'painter'"),
        ("params/other/0_Dense/W", "task 'duel'"),
        ("opt_state/maker/0/mu/W", "optimizer 'warming'"),
        ("opt_state/other/0/mu/W", "task 'duel'"),
        ("task_state/buffer", "task 'duel'"),
    ],
)
def test_a_leaf_of_a_task_of_several_models_is_kept_by_its_own(path, keeper):
    assert verdict.owner(path, verdict.plugins_of(OPPONENTS), False).startswith(keeper)


def attempt(start, batches, kill=None):
    """The lines of one process that was fed batches, each named by a letter, from the step after `start` on."""
    fed = [{"batch": step, "digest": name} for step, name in enumerate(batches, start + 1)]
    return [{"start": start, "arrays": None}, *fed, *([{"kill": kill}] if kill else [])]


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([attempt(0, "abcd", 3), attempt(2, "cdef")], None),
        ([attempt(0, "abcd", 3), attempt(2, "abcd")], (1, 3, 1)),
        ([attempt(0, "abcd", 3), attempt(2, "cd", 4), attempt(4, "ex")], (2, 6, None)),
        ([attempt(0, "abdd", 3), attempt(2, "abcd")], (0, 3, 4)),
    ],
)
def test_the_first_batch_that_is_another_is_found_though_the_last_line_is_torn(tmp_path, attempts, expected):
    (tmp_path / "straight").write_text("".join(json.dumps(line) + "\n" for line in attempt(0, "abcdef")))
    lines = [json.dumps(line) for each in attempts for line in each]
    (tmp_path / "killed").write_text("\n".join([*lines, lines[-1][:9]]))
    straight = trail.whole(trail.read(tmp_path / "straight"))
    found = trail.parting(straight, trail.read(tmp_path / "killed"))
    assert (found and (found.attempt, *found.batch)) == expected


class Gallery(Callback):
    everywhere = saves = True

    def on_media(self, step, tag, medium):
        raise StopTraining(f"{tag} is {medium.text} at step {step}")


def test_a_callback_that_is_watched_sees_media_and_its_stop_is_noted():
    notes = []
    heard = witness.Heard(NamedCallback("gallery", Gallery()), lambda **entry: notes.append(entry))
    with pytest.raises(StopTraining):
        heard.on_media(3, "about", Text("enough"))
    assert notes == [{"stop": 3, "by": "gallery", "reason": "about is enough at step 3"}]
    assert heard.everywhere and heard.saves
