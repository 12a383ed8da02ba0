"""Views of a model while it learns: how its parameters are spread, what it takes examples for, and where it errs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from framework.api import Audio, Callback, Embedding, PyTree, Run, TrainState, leaves_by_path
from framework.errors import ConfigError
from framework_callbacks import pictures

SHOWN = 25
"""Examples of a picture: a square of five by five."""

CURVES = 10
"""Classes that have a precision-recall curve."""

SOUNDS = 4
"""Examples that can be listened to."""

View = Literal["images", "mistakes", "confusion", "pr_curves", "projector", "filters", "histograms", "sounds"]

SHOW = get_args(View)


def views(every: int = 0, examples: int = 1000, show: list[View] = list(SHOW)) -> Callback:  # noqa: B006 - never changed
    """Show a model while it learns; TensorBoard and the run folder's `media` have it.

    Of classifiers, with outputs [B, K] and classes [B] as targets: `images` (examples with the class that was found),
    `mistakes` (those that the model is most certain of, as images and as a table), `confusion` (a heat map),
    `pr_curves` (of each of the first ten classes against all others), and `projector` (the outputs of the last hidden
    layer as points in space, at the end). Of any model: `filters` (weights of the first layer, if it takes images),
    `histograms` (of each parameter, and of a classifier's outputs), and `sounds` (the first examples, at the start, if
    the facts of the data have a "sample_rate" and inputs are float [B, T] or [B, T, C]).

    Args:
      every: steps between two looks, beside the last; the config takes it from `train.eval_every`. 0 is the end alone.
      examples: of the evaluation that are looked at, the first ones. A thousand cost as much as a few training steps.
      show: what is shown.

    Raises: ConfigError if `every` is negative, or there is no example.
    """
    if every < 0:
        raise ConfigError(f"every: expected 0 (at the end) or more, found {every}.")
    if examples < 1:
        raise ConfigError(f"examples: expected at least 1, found {examples}.")
    return Views(every, examples, show)


class Answers:
    """A classifier's answers to some examples.

    Attributes:
      inputs: [N, ...].
      targets: integers [N].
      outputs: logits or log-probabilities, float [N, K].
      certainties: the probabilities that they stand for, float [N, K].
      predicted: the most probable classes, integers [N].
      features: asks the model for the outputs of its last hidden layer, float [N, D].
    """

    def __init__(
        self, inputs: Any, targets: np.ndarray, outputs: np.ndarray, features: Callable[[], np.ndarray]
    ) -> None:
        """Turn outputs into probabilities."""
        self.inputs, self.targets, self.features = inputs, targets, features
        self.outputs = outputs.astype(np.float64)
        powers = np.exp(self.outputs - self.outputs.max(axis=1, keepdims=True))
        self.certainties = np.nan_to_num(powers / powers.sum(axis=1, keepdims=True), nan=0.0)
        self.predicted = self.certainties.argmax(axis=1)

    @property
    def images(self) -> np.ndarray | None:
        """The inputs where they are images [N, H, W, C] of one colour or three, else None."""
        is_image = isinstance(self.inputs, np.ndarray) and self.inputs.ndim == 4 and self.inputs.shape[-1] in (1, 3)
        return self.inputs if is_image else None

    def captioned(self, rows: np.ndarray) -> np.ndarray | None:
        """Return pictures of some examples with the classes that were found; None where they are no images."""
        if self.images is None:
            return None
        return pictures.captioned(self.images[rows], self.targets[rows], self.predicted[rows])


class Views(Callback):
    """Ask for the outputs of some examples, and show what was chosen."""

    def __init__(self, every: int, examples: int, show: Sequence[View]) -> None:
        self.every, self._examples, self._show = every, examples, show

    def on_start(self, run: Run) -> None:
        self.run, self._batch = run, run.examples("eval", self._examples)
        targets = self._batch.get("targets")
        is_classes = isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu"
        if "sounds" in self._show and run.start_step == 0:
            _sounds(run, self._batch["inputs"])
        self._asked = [ask for view, ask in OF_ANSWERS.items() if is_classes and view in self._show]

    def on_state(self, step: int, state: TrainState) -> None:
        if step < self.run.total_steps and (self.every == 0 or step % self.every):
            return  # where a signal stops the run
        leaves = {path: np.asarray(leaf) for path, leaf in leaves_by_path(state.params).items()}
        if "histograms" in self._show:
            for path, leaf in leaves.items():
                self.run.log_histogram(f"parameters/{path}", leaf, step)
        if "filters" in self._show and (found := self._first_filters(leaves)) is not None:
            self.run.log_image("filters/first", found, step)
        if self._asked and (answers := self._answers(state)) is not None:
            for ask in self._asked:
                ask(self.run, answers, step)

    def _first_filters(self, leaves: dict[str, np.ndarray]) -> np.ndarray | None:
        inputs: PyTree = self._batch["inputs"]
        first = next((leaf for leaf in leaves.values() if leaf.ndim > 1), None)
        if first is None or self.run.members or not isinstance(inputs, np.ndarray):
            return None
        return pictures.filters(first, inputs.shape[1:])

    def _answers(self, state: TrainState) -> Answers | None:
        """Return the answers of a classifier; None if the outputs are something else."""
        inputs, targets = self._batch["inputs"], self._batch["targets"]
        outputs = self.run.predict(state, inputs)
        is_scores = isinstance(outputs, np.ndarray) and outputs.ndim == 2 and outputs.shape[1] > 1
        if not is_scores or targets.min(initial=0) < 0 or targets.max(initial=0) >= outputs.shape[1]:
            return None
        return Answers(inputs, targets, outputs, partial(self.run.features, state, inputs))


def _sounds(run: Run, inputs: PyTree) -> None:
    rate = run.data_facts.get("sample_rate")
    if rate is None or not isinstance(inputs, np.ndarray) or inputs.ndim not in (2, 3) or inputs.dtype.kind != "f":
        return
    for number, samples in enumerate(inputs[:SOUNDS]):
        loudest = max(1.0, float(np.nanmax(np.abs(samples), initial=0)))
        run.log_audio(f"examples/sound_{number}", Audio(samples / loudest, rate), 0)


def _images(run: Run, answers: Answers, step: int) -> None:
    if (shown := answers.captioned(np.arange(min(SHOWN, len(answers.targets))))) is not None:
        run.log_image("examples/predicted", shown, step)


def _mistakes(run: Run, answers: Answers, step: int) -> None:
    rows = np.flatnonzero(answers.predicted != answers.targets)
    certainty = answers.certainties[rows, answers.predicted[rows]]
    rows = rows[np.argsort(-certainty, kind="stable")][:SHOWN]
    if len(rows) and (shown := answers.captioned(rows)) is not None:
        run.log_image("examples/mistakes", shown, step)
    columns = {
        "example": rows,
        "class": answers.targets[rows],
        "taken for": answers.predicted[rows],
        "certainty": answers.certainties[rows, answers.predicted[rows]],
        "certainty of its class": answers.certainties[rows, answers.targets[rows]],
    }
    run.log_table("examples/mistakes_table", columns, step)


def _confusion(run: Run, answers: Answers, step: int) -> None:
    size = answers.outputs.shape[1]
    places = answers.targets * size + answers.predicted
    counts = np.bincount(places, minlength=size * size).reshape(size, size)
    if size <= 100:  # beyond that no cell could be seen
        run.log_image("confusion/matrix", pictures.heat_map(counts), step)


def _pr_curves(run: Run, answers: Answers, step: int) -> None:
    for number in range(min(CURVES, answers.outputs.shape[1])):
        curve = (answers.targets == number, np.clip(answers.certainties[:, number], 0, 1))
        run.log_pr_curve(f"classes/{number}", curve, step)


def _outputs(run: Run, answers: Answers, step: int) -> None:
    run.log_histogram("outputs/scores", answers.outputs, step)
    run.log_histogram("outputs/certainty", answers.certainties.max(axis=1), step)


def _projector(run: Run, answers: Answers, step: int) -> None:
    if step == run.total_steps:
        sprites = None if answers.images is None else pictures.spread(answers.images)
        run.log_embedding("features", Embedding(answers.features(), answers.targets.tolist(), sprites), step)


OF_ANSWERS = {
    "images": _images,
    "mistakes": _mistakes,
    "confusion": _confusion,
    "pr_curves": _pr_curves,
    "histograms": _outputs,
    "projector": _projector,
}
