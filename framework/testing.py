"""Helpers for the tests of plugins: a config that trains in a second, and readers of what a run leaves behind.

    from framework import testing

    def test_my_model_learns(tmp_path):
        result = testing.train(tmp_path, "model=my_model", "train.steps=20")
        losses = testing.series(result, "train/loss")
        assert losses[-1] < losses[0]

Nothing here needs pytest. Strict checks are the caller's: set `jax_numpy_dtype_promotion=strict` and two CPU devices in
a `conftest.py` to test a plugin as the built-in ones are tested.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

import framework
from framework import Result
from framework.commands.cli import main

TINY = (
    "data=synthetic",
    "data.shape=[6]",
    "data.examples=64",
    "data.noise=3",
    "data.batch_size=16",
    "data.eval_batch_size=16",
    "model=mlp",
    "model.hidden=[8]",
)
"""Overrides for a run of four steps an epoch, on noisy data of ten classes that no model learns at once.

Later words win, so that `[*TINY, "model=cnn", "~model.hidden"]` is a config too.
"""


def train(folder: str | Path, *overrides: str) -> Result:
    """Train the tiny config.

    Args:
      folder: for the run's own folder; `run.dir=…` among the overrides names another one.
      overrides: what follows `TINY`, such as `"train.steps=12"`.

    Raises: FrameworkError.
    """
    return framework.run([*TINY, f"run.root={folder}", *overrides])


class Completed(NamedTuple):
    """The end of a command: its exit code, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str


def command(*words: str) -> Completed:
    """Call `python -m framework WORDS` in this process, which saves the seconds that a new one takes to start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Completed(code, out.getvalue(), err.getvalue())


def records(run: Result | str | Path, *, timed: bool = False) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`: one mapping a step, from tags to numbers, or to "NaN" and "Infinity" as text.

    Args:
      run: a result, or a run folder.
      timed: with `perf/…`, the measured speeds, which differ between runs that are equal otherwise.

    Wall-clock and checksum of each line are left out.
    """
    lines = map(json.loads, (_folder(run) / "metrics.jsonl").read_text().splitlines())
    return [{tag: value for tag, value in line.items() if _is_told(tag, timed)} for line in lines]


def series(run: Result | str | Path, tag: str) -> np.ndarray:
    """The recorded values of one tag [N], float64, in the order of their steps; empty if nothing has that tag."""
    lines = records(run, timed=True)
    return np.array([line[tag] for line in lines if tag in line], np.float64)


def run_record(run: Result | str | Path) -> dict[str, Any]:
    """Read `run.json`: status, exit code, versions, and the facts of a run."""
    return json.loads((_folder(run) / "run.json").read_text())


class Caught(Protocol):
    """An error that was caught, as `pytest.raises` gives it."""

    @property
    def value(self) -> BaseException: ...


def message(caught: Caught) -> str:
    """The text of an error, which is to be one line.

    Raises: AssertionError if it has several.
    """
    text = str(caught.value)
    assert "\n" not in text, f"expected one line, found {text!r}"
    return text


def assert_same_bits(left: Any, right: Any) -> None:
    """Compare two pytrees of arrays and keys by structure, dtype, shape and bytes; NaN equals the same NaN.

    Raises: AssertionError naming the first leaf that differs.
    """
    assert jax.tree.structure(left) == jax.tree.structure(right), "the trees have different structures"
    for (path, one), other in zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True):
        name, (one, other) = jax.tree_util.keystr(path), map(_array, (one, other))
        found = (str(one.dtype), one.shape), (str(other.dtype), other.shape)
        assert found[0] == found[1], f"{name}: {found[0]} is not {found[1]}"
        if one.tobytes() != other.tobytes():
            np.testing.assert_array_equal(one, other, err_msg=name, strict=True)
            raise AssertionError(f"{name}: equal numbers of different bits, such as 0.0 and -0.0")


def _array(leaf: Any) -> np.ndarray:
    if type(leaf) in (bool, int, float, complex):
        leaf = jax.numpy.asarray(leaf)  # with the dtype that JAX gives it
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _is_told(tag: str, timed: bool) -> bool:
    return tag not in ("crc32", "time") and (timed or not tag.startswith("perf/"))


def _folder(run: Result | str | Path) -> Path:
    return run.directory if isinstance(run, Result) else Path(run)
