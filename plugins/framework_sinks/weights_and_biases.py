"""Weights & Biases as a sink."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from framework.api import Audio, Callback, Embedding, Histogram, Image, Medium, PRCurve, Run, Table, Text
from framework.errors import ConfigError
from framework_sinks.sink import Sink, title

LARGEST = 1000
"""Rows of an embedding that are sent."""


def wandb(
    project: str = "framework",
    entity: str | None = None,
    mode: Literal["online", "offline", "disabled"] | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
) -> Callback:
    """Send scalars, media and the config to Weights & Biases; needs `pip install framework[wandb]`.

    A resumed run goes on with the same run there. Offline, `wandb sync` of the folders in RUN/wandb sends it later.

    Args:
      project: that the run is in.
      entity: user or team; null takes the default of the account.
      mode: "offline" writes files alone; null takes the environment variable WANDB_MODE, or "online".
      group: runs that are shown together; null groups the seeds of one config.
      tags: of the run there.

    Raises: ConfigError if the package is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("wandb is not installed; pip install framework[wandb].")
    return WeightsAndBiases(project, entity, mode, group, tags)


class WeightsAndBiases(Sink):
    """One run there, which has the id of the run."""

    name = "wandb"

    def __init__(self, project: str, entity: str | None, mode: Any, group: str | None, tags: tuple[str, ...]) -> None:
        self._project, self._entity, self._mode, self._group, self._tags = project, entity, mode, group, tags

    def open(self, run: Run) -> None:
        """Start its process."""
        wandb = import_module("wandb")
        folder, self._media = run.directory / "wandb", run.directory / "media"
        folder.mkdir(exist_ok=True)  # without it, its files go to a temporary folder
        self._note, self._sent = folder / "sent.json", -1
        if run.start_step and self._note.exists():
            self._sent = int(json.loads(self._note.read_text()))
        self._step = self._sent
        settings = wandb.Settings(console="off", silent=True)
        try:
            self._run = wandb.init(
                project=self._project,
                entity=self._entity,
                mode=self._mode,
                group=self._group or title(run, without=("seed",)),
                tags=self._tags,
                id=run.id or None,
                name=title(run),
                dir=run.directory,
                config=json.loads(json.dumps(run.config, default=str)),
                resume="allow",
                settings=settings,
            )
        except Exception as error:  # it has several types, for no account, no network and wrong names
            text = f"wandb cannot start ({error}); `wandb login`, or set callbacks.wandb.mode=offline."
            raise ConfigError(" ".join(text.split())) from error

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log a step, of which later calls may add more; it is complete there once a later step comes."""
        if step < self._step or step <= self._sent:
            return
        if step > self._step >= 0:
            self._complete()
        self._step = step
        self._run.log(dict(scalars), step=step)

    def show(self, step: int, tag: str, medium: Medium) -> None:
        """Log a medium in the step that is open: it comes after the scalars of its step, or before the next ones."""
        if step < self._step or step <= self._sent:
            return
        if step > self._step >= 0:
            self._complete()
        self._step = step
        self._run.log({tag: _shown(medium, self._media / tag / f"{step:08d}")}, step=step)

    def close(self, status: str) -> None:
        """End its process, once all is written or sent."""
        self._run.finish(exit_code=int(status == "failed"))
        self._complete()

    def _complete(self) -> None:
        self._note.write_text(json.dumps(self._step))


def _shown(medium: Medium, file: Path) -> Any:
    """Return a medium in the types of wandb.

    Args:
      file: of the medium in the run folder, without its ending.
    """
    wandb = import_module("wandb")
    match medium:
        case Image():
            return wandb.Image(f"{file}.png")
        case Audio():
            return wandb.Audio(f"{file}.wav")
        case Histogram():
            return wandb.Histogram(np_histogram=(medium.counts, medium.edges))
        case Text():
            return wandb.Table(columns=["text"], data=[[medium.text]])
        case Table():
            return wandb.Table(columns=[str(name) for name in medium.columns], data=_texts(medium.rows))
        case PRCurve():
            head, *rows = (line.split(",") for line in medium.files()["csv"].decode().splitlines())
            return wandb.Table(columns=head, data=[[float(cell) for cell in row] for row in rows])
        case Embedding():
            vectors = medium.vectors[:LARGEST].tolist()
            labels = [""] * len(vectors) if medium.labels is None else list(medium.labels)
            columns = ["label", *(f"d{k}" for k in range(medium.vectors.shape[1]))]
            return wandb.Table(columns=columns, data=[[str(n), *v] for n, v in zip(labels, vectors, strict=False)])


def _texts(rows: Any) -> list[list[str]]:
    # One column may hold numbers and texts, which its types refuse.
    return [["" if cell is None else str(cell) for cell in row] for row in rows]
