"""The user's own arrays as a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from framework.api import Where
from framework.errors import ConfigError
from framework_data.pipeline import InMemoryPipeline, count_examples, gather, hold_out
from framework_data.tables import read_split

SEED = 0  # of the one order into which examples are put, apart from that of a run


def arrays(
    train: str,
    test: str | float = 0.2,
    fields: Mapping[str, Any] | None = None,
    batch_size: int = 128,
    eval_batch_size: int = 1000,
    validation: int | float = 0,
    train_limit: int | None = None,
) -> InMemoryPipeline:
    """Your own arrays: an .npz file, a folder of .npy files, or a .csv table with a header.

    Floating-point numbers become float32, integers and truth values int32. In a table, one column of whole numbers
    becomes int32, as labels are; several set side by side become float32 [B, columns]. An array that has fractions in
    one of two files is float32 in both. Training examples are put in one fixed random order, so that a share of a
    sorted file is a fair one.

    Args:
      train: path of the training examples.
      test: path of the test examples, or the share of the training examples that take their place.
      fields: for each leaf of a batch the name of its array, or a list of names to be set side by side; nested as the
        batch shall be. Default {inputs: inputs, targets: targets}; in a table the column "target" is the targets and
        all others are the inputs.
      batch_size: training examples in a step.
      eval_batch_size: examples in an evaluation batch.
      validation: how many training examples (or their share, below 1) become the split "validation".
      train_limit: use at most the first so many training examples.

    Raises: DataError if a file cannot be read, lacks a name or holds anything but finite numbers that fit; ConfigError
      if `test` is no share.
    """
    examples, where, names = read_split(train, fields)
    count = count_examples(examples, "train")
    order = np.random.default_rng(SEED).permutation(count)
    if isinstance(test, str):
        (held, where_held, _), source = read_split(test, fields), f"{train}, {test}"
        examples, held = _alike(examples, held)
        rows = np.arange(count_examples(held, "test"))
    elif 0 < test < 1:
        cut = max(1, round(count * test))
        rows, order, source = order[:cut], order[cut:], f"{train}, {test:.0%} of it for testing"
        held, where_held = gather(examples, rows), where
    else:
        raise ConfigError(f"test is {test}, expected the path of a file or a share between 0 and 1.")
    # Rows go through the same cuts as the examples, so that a message can name the place in the file.
    whole, apart = {"examples": gather(examples, order), "rows": order}, {"examples": held, "rows": rows}
    kept, evals = hold_out(whole, apart, validation, train_limit)
    splits = {"train": kept, **evals}
    places = {name: _places(where_held if name == "test" else where, cut["rows"]) for name, cut in splits.items()}
    examples_of = {name: cut["examples"] for name, cut in evals.items()}
    pipeline = InMemoryPipeline(kept["examples"], examples_of, batch_size, eval_batch_size, source)
    pipeline.where = places
    if "inputs" in names:
        dtypes = jax.tree.map(lambda leaf: str(leaf.dtype), pipeline.spec["inputs"])
        pipeline.facts = {"preprocess": {"name": "columns", "fields": names["inputs"], "dtypes": dtypes}}
    return pipeline


def _places(where: Where, rows: np.ndarray) -> Where:
    return lambda row: where(int(rows[row]))


def _alike(train: Any, test: Any) -> tuple[Any, Any]:
    """Make an array float32 in both splits if it is in one of them: a table's column may be whole by chance."""
    if jax.tree.structure(train) != jax.tree.structure(test):
        return train, test

    def meet(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
        return mine.astype(np.float32) if mine.dtype != other.dtype else mine

    return jax.tree.map(meet, train, test), jax.tree.map(meet, test, train)
