"""Callbacks that show every medium, ask for examples and predictions, and note what others show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from framework.api import Audio, Callback, Embedding, Medium, Run, StopTraining, Summary, TrainState

SHOWN: list[tuple[int, str, Medium]] = []
PREDICTED: list[tuple[np.ndarray, np.ndarray]] = []


class Gallery(Callback):
    """Show every medium every four steps, as numbers of the state decide."""

    def __init__(self, every: int, tag: str, bad: Any, stop: int) -> None:
        self.every, self.tag, self.bad, self.stop = every, tag, bad, stop

    def on_start(self, run: Run) -> None:
        self.run = run
        run.log_text("about", f"a run of {run.total_steps} steps", run.start_step)
        self.batch = run.examples("eval", 5)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        if step > 0 and step == self.stop:
            raise StopTraining("it is enough")

    def on_state(self, step: int, state: TrainState) -> None:
        run, outputs = self.run, self.run.predict(state, self.batch["inputs"])
        PREDICTED.append((self.batch["inputs"], outputs))
        scores = np.exp(outputs - outputs.max(-1, keepdims=True))
        pixels = scores[:, :, None, None]
        run.log_image(f"{self.tag}/scores", pixels[0] if self.bad is None else self.bad, step)
        run.log_image("samples/grid", pixels, step)
        run.log_histogram("outputs", np.append(outputs, np.nan), step)
        run.log_table("rows", [{"target": target} for target in self.batch["targets"]], step)
        run.log_pr_curve("of/zero", (self.batch["targets"] == 0, scores[:, 0] / scores.sum(-1)), step)
        run.log_embedding("last", Embedding(outputs, list(self.batch["targets"]), pixels), step)
        run.log_audio("sound", Audio(np.sin(np.arange(100) * scores[0, 0]), 8000), step)

    def on_end(self, summary: Summary) -> None:
        self.run.log_text("end", summary.status, summary.step)


class Sink(Callback):
    """Note what is shown."""

    def on_start(self, run: Run) -> None:
        SHOWN.clear()

    def on_media(self, step: int, tag: str, medium: Medium) -> None:
        SHOWN.append((step, tag, medium))


def gallery(every: int = 4, tag: str = "samples", bad: Any = None, stop: int = 0) -> Callback:
    """Show every medium.

    Args:
      every: steps between.
      tag: first part of a tag.
      bad: in place of an image.
      stop: the step after which the run ends.
    """
    return Gallery(every, tag, bad, stop)


def sink() -> Callback:
    """Note what is shown in `SHOWN`."""
    return Sink()
