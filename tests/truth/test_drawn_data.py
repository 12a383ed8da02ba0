"""Data as hypothesis draws them: a run either logs NumPy's numbers, or refuses in one line.

`TRUTH_EXAMPLES=2000 pytest tests/truth/test_drawn_data.py` draws more than the 100 of a usual run.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import framework_losses.losses as losses
import framework_losses.metrics as metrics
import framework_losses.regression as regression
from framework.api import InMemory, as_metric
from framework.data.batches import check_examples
from framework.errors import FrameworkError
from framework.steps.metrics import Sums, collected, weighted
from framework.tasks.targets import outside
from framework_data.files import arrays
from tests.truth import reference

DRAWN = settings(
    max_examples=int(os.environ.get("TRUTH_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize="TRUTH_EXAMPLES" not in os.environ,
)
METRICS = {
    "classes": {
        "loss": losses.softmax_cross_entropy(),
        "accuracy": metrics.accuracy("classes"),
        "perplexity": metrics.perplexity(),
        "balanced_accuracy": metrics.balanced_accuracy(),
        "top_k_accuracy": metrics.top_k_accuracy(2),
        "f1": metrics.f1(targets="classes"),
    },
    "binary": {
        "loss": losses.binary_cross_entropy(),
        "accuracy": metrics.accuracy("binary"),
        "subset_accuracy": metrics.subset_accuracy(),
        "f1": metrics.f1(targets="binary"),
        "auc": metrics.auc("binary"),
    },
    "real": {
        "loss": losses.squared_error(),
        "mse": regression.mse(),
        "rmse": regression.rmse(),
        "mae": regression.mae(),
        "r2": regression.r2(),
        "huber": losses.huber(),
        "absolute_error": losses.absolute_error(),
    },
}
BOUNDS = {"classes": (-1, 4), "binary": (-1, 2), "real": (-1000, 1000)}
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int8]


@st.composite
def drawn(draw: Any) -> tuple[str, dict[str, np.ndarray], int]:
    """Draw a kind of task, its arrays, and the size of evaluation batches; some do not fit."""
    kind, count = draw(st.sampled_from(sorted(METRICS))), draw(st.integers(2, 12))
    columns = draw(st.integers(2, 3))
    dtype = draw(st.sampled_from(DTYPES))
    low, high = BOUNDS[kind] if draw(st.integers(0, 3)) == 0 else {**BOUNDS, "classes": (0, 1), "binary": (0, 1)}[kind]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (count,) if kind == "classes" else (count, columns)
    whole = np.dtype(dtype).kind == "i" or kind != "real"
    wide = (max(low, -120), min(high, 120))
    targets = random.integers(wide[0], wide[1] + 1, shape) if whole else random.uniform(low, high, shape)
    scale = 10.0 ** draw(st.integers(-3, 4))
    found = {
        "inputs": (random.normal(size=(count, columns)) * scale + draw(st.sampled_from([0, 5]))).astype(np.float32),
        "targets": targets.astype(np.int64 if kind == "classes" else dtype),
    }
    if draw(st.booleans()):
        found["weights"] = random.integers(draw(st.sampled_from([-1, 0, 0])), 3, count).astype(dtype)
    return kind, found, draw(st.integers(1, 5))


@DRAWN
@given(drawn())
def test_numbers_are_numpys_or_the_data_are_refused(tmp_path, case):
    kind, data, size = case
    np.savez(tmp_path / "data.npz", **data)
    sound = _is_sound(kind, data)
    try:
        fields = {name: name for name in data}
        path = str(tmp_path / "data.npz")
        pipeline = arrays(path, test=path, fields=fields, batch_size=1, eval_batch_size=size)
        _check(pipeline, METRICS[kind]["loss"])
    except FrameworkError:
        assert not sound, "sound data were refused"
        return
    assert sound, "data that no mean can be taken of were accepted"
    with np.errstate(over="ignore"):
        expected = _wanted(kind, data)
    for name, found in _measured(METRICS[kind], pipeline).items():
        wanted = expected[name]
        if name == "perplexity":  # an exponential, whose relative error is the mean's error
            found, wanted = np.log(found), np.log(wanted)
        np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=1e-6, err_msg=name)


def _is_sound(kind: str, data: dict[str, np.ndarray]) -> bool:
    weights = data.get("weights", np.ones(len(data["targets"])))
    low, high = {"classes": (0, data["inputs"].shape[1] - 1), "binary": (0, 1), "real": (-np.inf, np.inf)}[kind]
    targets = data["targets"][weights != 0]
    return bool((weights >= 0).all() and weights.any() and ((targets >= low) & (targets <= high)).all())


def _check(pipeline: InMemory, loss: Any) -> None:
    def check(spec: Any, examples: Any) -> Any:
        return outside(loss, examples, jax.ShapeDtypeStruct(spec["inputs"].shape, jnp.float32))

    check_examples(pipeline, check)


def _measured(built: dict[str, Any], pipeline: InMemory) -> dict[str, float]:
    """Evaluate the inputs, taken for outputs, as a run would."""
    chosen, sums = {name: as_metric(each) for name, each in built.items()}, Sums()
    for batch in pipeline.eval("test"):
        outputs, weights = jnp.asarray(batch["inputs"]), jnp.asarray(batch["weights"])
        on_device = jax.tree.map(jnp.asarray, batch)
        sums.add(
            {
                name: (collected if each.collect else weighted)(each.values(outputs, on_device), weights)
                for name, each in chosen.items()
            }
        )
    return {
        name: float(chosen[name].result(np.asarray(total, np.float64), np.asarray(count, np.float64)))  # pyright: ignore
        for name, (total, count) in sums.means().items()
    }


def _wanted(kind: str, data: dict[str, np.ndarray]) -> dict[str, float]:
    weights = data.get("weights", np.ones(len(data["targets"]))).astype(float)
    kept = weights > 0
    targets = data["targets"][kept]
    targets = targets.astype(np.float32) if kind == "real" else targets.astype(int)
    return getattr(reference, kind)(data["inputs"][kept], targets, weights[kept])
