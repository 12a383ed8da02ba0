"""The best run of a sweep, where a trained model is asked for; and the front's functions that take SWEEP@best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framework.errors import StorageError
from framework.sweeps import folder as folders
from framework.sweeps.python_api import results
from framework.trained import evaluated, trained_model
from framework.trained.model_function import Trained
from framework.trained.places import Member


def best_run(path: str) -> str:
    """Return the run folder of a sweep's best point for SWEEP@best; any other path as it is.

    Raises: StorageError if no point of the sweep is done.
    """
    folder, at, word = path.rpartition("@")
    if not at or word != "best" or Path(path).exists() or not folders.is_sweep(Path(folder)):
        return path
    if (found := results(folder).best_run) is None:
        raise StorageError(f"{folder} has no best point: none of its points is done.")
    return str(found)


def load(path: str | Path, step: int | None = None, member: Member = 0, averaged: bool = True) -> Trained:
    """Read a trained model back from its run folder; the data it was trained on are not needed.

    Args:
      path: the run folder. RUN@500 names the checkpoint of a step, and RUN@best the one whose evaluation was best: by
        `callbacks.checkpoint.best`, or else by the lowest eval/loss. SWEEP@best is the best point of a sweep.
      step: of the checkpoint to read. None takes the newest that is not damaged.
      member: the one to take, of a run that trained several; "best" is the one whose last evaluation was best.
      averaged: take the moving average of the parameters, where the run kept one, as its evaluations did.

    Raises: StorageError if the folder holds no run, or no such checkpoint or member, or the checkpoint is damaged;
      ConfigError or PluginError if the model's plugin is missing or has other options.
    """
    return trained_model.load(best_run(str(path)), step, member, averaged)


def evaluate(
    run: str | Path, overrides: Sequence[str] = (), split: str | None = None, member: Member = 0
) -> dict[str, float]:
    """Measure a trained model on a split of its data, by the metrics of its run.

    Args:
      run: the run folder; RUN@500 and RUN@best name a checkpoint, and SWEEP@best the best point of a sweep.
      overrides: of the recorded config, such as `["metrics+=perplexity", "data.test=other.npz"]`.
      split: one that the data evaluate, or "train"; None takes "test", or else the first one.
      member: the one to take, of a run that trained several; "best" is the one whose last evaluation was best.

    Returns: numbers by name, such as {"loss": 0.07, "accuracy": 0.98}.

    Raises: FrameworkError.
    """
    return evaluated.evaluate(best_run(str(run)), overrides, split, member)
