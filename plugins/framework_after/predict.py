"""The verb `predict`."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.command import Command
from framework.commands.arguments import Arguments
from framework.errors import ConfigError, FrameworkError
from framework.startup import import_jax

if TYPE_CHECKING:
    from framework.api import PyTree
    from framework.trained.model_function import Trained


def predict() -> Command:
    """Compute a trained model's outputs of files."""
    return Command("predict", "compute a trained model's outputs of a file or a folder", run, group="train")


def run(words: list[str]) -> None:
    """Predict from the examples of a file, and write the outputs to another one.

    Raises: FrameworkError.
    """
    arguments = Arguments(
        "predict",
        "Compute a trained model's outputs of raw inputs, which are preprocessed as in training. Outputs are in the "
        "order of the inputs, with their ids, and are the same bytes on any number of devices. Files may be larger "
        "than the memory. Inputs are an .npy, .npz, .csv or .txt file (one example a line), or a folder of images or "
        ".npy files; outputs are .csv, .npy or .npz.",
        "predict runs/mnist/mine@best --input images/ --output digits.csv",
        "RUN --input FILE|FOLDER --output FILE [options]",
    )
    arguments.add_trained()
    arguments.add_argument("--input", metavar="FILE", required=True, help="file or folder of raw inputs")
    arguments.add_argument("--output", metavar="FILE", required=True, help="file for the outputs")
    arguments.add_argument("--prepared", action="store_true", help="the inputs are preprocessed already")
    arguments.add_argument("--seed", type=int, metavar="N", help="of the random numbers, where a task draws some")
    given = arguments.read(words)
    if given.seed is not None and not 0 <= given.seed < 2**32:
        raise ConfigError(f"expected 0 to {2**32 - 1}, found {given.seed}.", key="--seed")
    from framework_after import tables

    source, target = Path(given.input), Path(given.output)
    tables.check(target, (".csv", ".npy", ".npz"))
    import_jax()
    from framework.records.logs import console
    from framework.sweeps.best import best_run
    from framework.trained.trained_model import load

    with console():
        model = load(best_run(given.run), member=given.member)
        count = predicted(model, source, target, given.prepared, given.seed)
    sys.stdout.write(f"{count:,} examples of {source}\nwritten: {target}\n")


def predicted(model: Trained, source: Path, target: Path, is_prepared: bool = False, seed: int | None = None) -> int:
    """Predict from the examples of a file or folder, a few blocks of which are in memory, and write the outputs.

    A warning counts the examples with outputs that are not finite: their class says nothing.

    Returns: the number of examples.

    Raises: FrameworkError.
    """
    from framework.records.logs import LOGGER
    from framework.training.prefetch import ahead
    from framework_after import readers, writers

    is_raw = model.is_preprocessed and not is_prepared
    wanted = readers.Wanted(model.block, channels_of(model), by_name=is_raw)
    waiting: deque[Sequence[Any]] = deque()

    def inputs() -> Iterator[tuple[Sequence[Any], PyTree]]:
        count = 0
        for ids, raw in readers.read(source, wanted):
            try:
                made = model.preprocess(raw) if is_raw else model.checked(raw)
            except FrameworkError as error:
                error.key = error.key or f"{source}, examples {count} to {count + len(ids) - 1}"
                raise
            count += len(ids)
            yield ids, made

    def noted(blocks: Iterator[tuple[Sequence[Any], PyTree]]) -> Iterator[PyTree]:
        for ids, block in blocks:
            waiting.append(ids)
            yield block

    classes, count, lost = classes_of(model), 0, 0
    with ahead(each for each in inputs()) as blocks, writers.writer(target, classes) as write:
        for outputs in model.predicted(noted(blocks), seed):
            ids = waiting.popleft()
            write(ids, outputs, names_of(outputs, classes))
            count, lost = count + len(ids), lost + _lost(outputs, len(ids))
        if not count:
            raise ConfigError(f"{source} holds no examples, expected one or more.")
    if lost:
        LOGGER.warning(f"{lost:,} of {count:,} examples have outputs that are not finite, whose classes say nothing.")
    return count


def channels_of(model: Trained) -> int:
    """Return the channels of an image, the last axis of the inputs; 0 where they are no single array."""
    import jax

    shapes = [leaf.shape for leaf in jax.tree.leaves(model.inputs)]
    return shapes[0][-1] if len(shapes) == 1 and len(shapes[0]) > 1 else 0


def _lost(outputs: PyTree, count: int) -> int:
    """Return how many of a block of examples have an output that is not finite."""
    import jax
    import numpy as np

    finite = np.ones(count, bool)
    for leaf in jax.tree.leaves(outputs):
        finite &= np.isfinite(np.asarray(leaf)).reshape(count, -1).all(axis=1)
    return int(count - finite.sum())


def classes_of(model: Trained) -> list[str]:
    """Return the names of the classes that the outputs of a classifier stand for; none of another model."""
    found = model.facts.get("classes")
    return [str(name) for name in found] if isinstance(found, list) else []


def names_of(outputs: PyTree, classes: Sequence[str]) -> list[str] | None:
    """Return the name of the class of the largest output of each example; None if the outputs are not of classes."""
    import numpy as np

    if not isinstance(outputs, np.ndarray) or outputs.ndim != 2 or outputs.shape[1] != len(classes):
        return None
    return [classes[int(k)] for k in outputs.argmax(axis=1)]
