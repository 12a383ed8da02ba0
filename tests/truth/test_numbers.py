"""Logged numbers are those that NumPy and scikit-learn compute from the loaded model's outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.truth import reference
from tests.truth.runs import save, train

TRAIN, TEST, FEATURES = 24, 22, 4
RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(TRAIN + TEST, FEATURES))
SCORES = X @ RANDOM.normal(size=(FEATURES, 3)) + 0.5 * RANDOM.normal(size=(TRAIN + TEST, 3))


class Kind(NamedTuple):
    """A kind of task: its targets [N, ...], the options of a run, and the reference by tag."""

    targets: np.ndarray
    overrides: list[str]
    reference: Any


KINDS = {
    "classes": Kind(
        SCORES.argmax(axis=1),
        [
            *["model.classes=3", "loss=softmax_cross_entropy"],
            "metrics=[accuracy,perplexity,confusion,balanced_accuracy,f1,softmax_cross_entropy,top_k_accuracy]",
            "metrics.top_k_accuracy.k=2",
        ],
        reference.classes,
    ),
    "two classes": Kind(
        (SCORES[:, 0] > 0).astype(int),
        ["model.classes=2", "loss=softmax_cross_entropy", "metrics=[accuracy,auc,f1]"],
        reference.classes,
    ),
    "binary": Kind(
        (SCORES > 0).astype(int),
        [
            *["model.classes=3", "loss=binary_cross_entropy"],
            "metrics=[accuracy,subset_accuracy,f1,auc,binary_cross_entropy]",
        ],
        reference.binary,
    ),
    "real": Kind(
        SCORES + 20,
        ["model.classes=3", "loss=squared_error", "metrics=[mse,rmse,mae,r2,huber,absolute_error,squared_error]"],
        reference.real,
    ),
}  # fmt: skip
WAYS = {
    "jit": ["strategy=jit"],
    "pmap": ["strategy=pmap"],
    "sharded": ["strategy=sharded"],
    "vmapped": ["strategy=vmapped", "strategy.members=2"],
    "accumulated": ["train.accumulate=3"],
    "masked": ["data.fields={inputs: inputs, targets: targets, weights: weights}"],
    "masked pmap": ["strategy=pmap", "data.fields={inputs: inputs, targets: targets, weights: weights}"],
    "one batch": [f"data.eval_batch_size={TEST}"],
    "bfloat16": ["precision=bfloat16"],
    "ema": ["ema=0.9"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Training and test files of every kind."""
    folder, weights = tmp_path_factory.mktemp("files"), RANDOM.integers(0, 4, TRAIN + TEST).astype(float)
    made = {}
    for name, kind in KINDS.items():
        arrays = {"inputs": X, "targets": kind.targets, "weights": weights}
        parts = {"train": slice(None, TRAIN), "test": slice(TRAIN, None)}
        made[name] = {
            part: save(folder, f"{name} {part}".replace(" ", "_"), **{k: v[rows] for k, v in arrays.items()})
            for part, rows in parts.items()
        }
    return made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_logged_numbers_are_numpys(tmp_path, files, name, way):
    kind, paths = KINDS[name], files[name]
    run = train(
        tmp_path / "run",
        *["data=arrays", f"data.train={paths['train']}", f"data.test={paths['test']}", f"data.batch_size={TRAIN}"],
        *["data.eval_batch_size=8", "model=mlp", "model.hidden=[8]", "train.steps=6", "train.checkpoint_every=5"],
        *["train.eval_every=0", "optimizer.learning_rate=0.03", *kind.overrides, *WAYS[way]],
    )
    member = "/0" if way == "vmapped" else ""
    tolerance = 1e-2 if way == "bfloat16" else 1e-6
    # Training logs, at step 6, the numbers of the parameters after step 5; with an average those are not saved.
    for tag, step in {"train": 5, "eval": 6}.items():
        if tag == "train" and way == "ema":
            continue
        with np.load(paths["train" if tag == "train" else "test"]) as data:
            arrays = dict(data)
        weights = arrays["weights"] if "masked" in way else np.ones(len(arrays["targets"]))
        outputs = run.model(step=step)(arrays["inputs"].astype(np.float32))
        wanted = kind.reference(np.asarray(outputs), arrays["targets"].astype(_precision(kind)), weights)
        logged = {key.removeprefix(f"{tag}/").removesuffix(member) for key in run.records[-1] if key.startswith(tag)}
        for metric in sorted(logged & wanted.keys()):
            found = run.last(f"{tag}/{metric}{member}")
            assert found == pytest.approx(wanted[metric], rel=tolerance, abs=1e-7), f"{tag}/{metric}"
        collected = reference.COLLECTED if tag == "train" else set()
        assert wanted.keys() & _asked(kind) <= logged | collected
        assert tag == "eval" or not logged & collected


def _precision(kind):
    """Real targets as the framework holds them."""
    return np.float32 if kind.targets.dtype.kind == "f" else np.int64


def _asked(kind):
    (metrics,) = (each for each in kind.overrides if each.startswith("metrics="))
    return {"loss", *metrics.removeprefix("metrics=[").removesuffix("]").split(",")}


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_losses_of_a_regression_train_on_what_they_log(tmp_path, files, loss):
    paths = files["real"]
    run = train(
        tmp_path / "run",
        *["data=arrays", f"data.train={paths['train']}", f"data.test={paths['test']}", f"data.batch_size={TRAIN}"],
        *["model=mlp", "model.hidden=[8]", "model.classes=3", "train.steps=3", f"loss={loss}"],
    )
    with np.load(paths["test"]) as data:
        outputs, targets = run.model()(data["inputs"].astype(np.float32)), data["targets"].astype(np.float32)
    wanted = reference.real(np.asarray(outputs), targets, np.ones(TEST))
    assert run.last("eval/loss") == pytest.approx(wanted[loss], rel=1e-6)


@pytest.mark.parametrize("scale", [(-20_500.0, 6_000.0), (0.505, 0.002)], ids=["far from 0", "within 0.01"])
def test_auc_is_exact_whatever_the_scale_of_the_scores(tmp_path, scale):
    offset, width = scale
    labels = RANDOM.integers(0, 2, 400)
    scores = offset + width * np.clip(labels - 0.5 + 0.6 * RANDOM.normal(size=400), -2.3, 2.3)
    path = save(tmp_path, "data", inputs=scores[:, None], targets=labels)
    run = train(
        tmp_path / "run",
        *["data=arrays", f"data.train={path}", f"data.test={path}", "data.batch_size=400", "data.eval_batch_size=64"],
        *["model=serial", "model.layers=[{Dense: {out_dim: 1, W_init: ones}}]", "loss=binary_cross_entropy"],
        *["metrics=[auc]", "train.steps=1", "optimizer.learning_rate=0"],
    )
    wanted = reference.sk.roc_auc_score(labels, np.asarray(run.model()(scores[:, None].astype(np.float32)))[:, 0])
    assert run.last("eval/auc") == pytest.approx(wanted, rel=1e-9)
    assert 0.8 < wanted < 1
