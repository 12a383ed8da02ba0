"""TensorBoard: scalars, config, parameter table and hyper-parameters of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from omegaconf import OmegaConf

from framework.api import Callback, Embedding, Medium, Parameter, Run, Summary, Table, flat
from framework_tensorboard import events
from framework_tensorboard.media import values_of
from framework_tensorboard.projector import cut_embeddings, write_embedding

NOT_HYPERPARAMETERS = ("run", "callbacks", "debug", "data.root", "data.offline")
"""Parts of the config that change no number of a run: where it is stored, and how it is watched."""


def tensorboard() -> Callback:
    """Write scalars, config, parameter table and hyper-parameters for TensorBoard, in the run folder's `tb`.

    Each point is handed to the operating system at once. Points that waited in a killed process would be missing from
    the curves for good, if a checkpoint was saved after them.
    """
    return TensorBoard()


class TensorBoard(Callback):
    """Write one event file for each run; a resumed run takes the points over up to its step."""

    def __init__(self) -> None:
        self._file: events.EventFile | None = None
        self._known: set[tuple[Any, ...]] = set()  # events that stand, by step and tags

    def on_start(self, run: Run) -> None:
        self._directory = directory = run.directory / "tb"
        earlier = sorted(path for path in directory.glob("events.out.tfevents.*") if not path.is_symlink())
        # Not every reader of event files honours a mark of a restart, and TensorBoard keeps the first status that it
        # finds of a session. So the points that stay move to the file of this process. The earlier files are emptied,
        # not removed: a TensorBoard in the middle of a file that vanishes reads no further.
        records = events.point_records(earlier, run.start_step) if run.start_step > 0 else {}
        self._known = set(records)
        self._file = events.EventFile(directory)
        for record in records.values():
            self._file.add_record(record)
        self._file.add(run.start_step, _header(run))
        for path in earlier:
            os.truncate(path, 0)
        cut_embeddings(directory, run.start_step)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._add(step, [events.scalar(tag, number) for tag, number in scalars.items()])

    def on_media(self, step: int, tag: str, medium: Medium) -> None:
        if isinstance(medium, Embedding) and self._file:
            write_embedding(self._directory, step, tag, medium)
        self._add(step, values_of(medium, tag))

    def _add(self, step: int, values: list[events.Value]) -> None:
        """Write an event, unless it stands already: a run that goes on may log what it logged at its step."""
        point = (step, *(value.tag for value in values))
        if self._file and values and point not in self._known:
            self._file.add(step, values)
            self._known.add(point)

    def on_end(self, summary: Summary) -> None:
        if self._file:
            with closing(self._file) as file:  # also where the disk takes no more
                self._file = None
                file.add(summary.step, [events.session_end(success=summary.status != "failed")])


def hyperparameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the numbers, words and lists of a config by dotted path: "optimizer.learning_rate".

    Lists are written out, so that `hidden: [128, 64]` is one hyper-parameter. Nulls are left out, as are the parts of a
    config that change no number of a run.
    """
    shown: dict[str, bool | int | float | str] = {}
    for path, value in flat(config).items():
        is_list = isinstance(value, list | tuple)
        if is_list and any(isinstance(item, Mapping | list | tuple) for item in value):
            continue
        if (is_list or isinstance(value, bool | int | float | str)) and not _under(path, NOT_HYPERPARAMETERS):
            shown[path] = str(list(value)) if is_list else value
    return shown


def _under(path: str, parts: Iterable[str]) -> bool:
    return any(path == part or path.startswith(f"{part}.") for part in parts)


def _header(run: Run) -> list[events.Value]:
    config = OmegaConf.to_yaml(OmegaConf.create(dict(run.config)))
    return [
        events.session_start(hyperparameters(run.config)),
        events.text("run/config", f"```yaml\n{config}```"),
        events.text("run/facts", Table(("fact", "value"), [*run.facts.items()]).markdown()),
        events.text("run/parameters", parameter_markdown(run.parameters)),
        events.layout(["loss", *run.config.get("metrics", {})]),
    ]


def parameter_markdown(parameters: Iterable[Parameter]) -> str:
    """Return the parameter table in Markdown, with a last row for the total."""
    rows = [(f"`{p.path}`", " × ".join(map(str, p.shape)), p.dtype, f"{p.size:,}", p.size) for p in parameters]
    total = ("**total**", "", "", f"**{sum(row[-1] for row in rows):,}**")
    return Table(("parameter", "shape", "dtype", "size"), [*(row[:-1] for row in rows), total]).markdown()
