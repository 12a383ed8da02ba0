"""The user's own arrays as a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    becomes int32, as labels are; several set side by side become float32 [B, columns]. Training examples are put in one
    fixed random order, so that a share of a sorted file is a fair one.

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

    Raises: DataError if a file cannot be read, lacks a name or holds anything but finite numbers; ConfigError if `test`
      is no share.
    """
    examples = read_split(train, fields)
    count = count_examples(examples, "train")
    order = np.random.default_rng(SEED).permutation(count)
    if isinstance(test, str):
        held, source = read_split(test, fields), f"{train}, {test}"
    elif 0 < test < 1:
        cut = max(1, round(count * test))
        held, order, source = gather(examples, order[:cut]), order[cut:], f"{train}, {test:.0%} of it for testing"
    else:
        raise ConfigError(f"test is {test}, expected the path of a file or a share between 0 and 1.")
    kept, evals = hold_out(gather(examples, order), held, validation, train_limit)
    return InMemoryPipeline(kept, evals, batch_size, eval_batch_size, source)
