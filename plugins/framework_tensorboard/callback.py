"""TensorBoard: curves, media, config, parameter table and hyper-parameters of a run, or of each of its members."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from omegaconf import OmegaConf

from framework.api import Callback, Embedding, Histogram, Image, Medium, Node, Parameter, Run, Summary, Table
from framework.errors import StorageError
from framework_tensorboard import events
from framework_tensorboard.constant import Varying
from framework_tensorboard.hyperparameters import following, hyperparameters
from framework_tensorboard.media import values_of
from framework_tensorboard.names import names_of, point_of, shown_tag
from framework_tensorboard.projector import cut_embeddings, write_embedding

EVENTS = "events.out.tfevents.*"
"""The names of event files, by which TensorBoard finds them."""

MUTE = {"train/live_members"}
"""Tags of the core, beside those without a direction, whose curves are written once they change."""


def tensorboard() -> Callback:
    """Write curves, media, config, parameter table and hyper-parameters for TensorBoard, into the run folder.

    The folder of the events has the name that TensorBoard shows: the experiment, and what was chosen on the command
    line, such as "mnist seed=2 lr=0.003". Each member of a population is a run there, and their mean is one. Each point
    is handed to the operating system at once. Points that waited in a killed process would be missing from the curves
    for good, if a checkpoint was saved after them.
    """
    return TensorBoard()


class Curves:
    """The events of one run in TensorBoard. A run that goes on takes the points over up to its step.

    Not every reader of event files honours a mark of a restart, and TensorBoard keeps the first status that it finds of
    a session. So the points that stay move to the file of this process. The earlier files are emptied, not removed: a
    TensorBoard in the middle of a file that vanishes reads no further.
    """

    def __init__(self, folder: Path, start_step: int, varying: Varying) -> None:
        """Open a new file.

        Raises: StorageError if the folder is a symbolic link, or cannot be written.
        """
        if folder.is_symlink():
            raise StorageError(f"{folder} is a symbolic link, and a run writes no such; remove it.")
        self.folder, self._varying = folder, varying
        earlier = sorted(path for path in folder.glob(EVENTS) if not path.is_symlink())
        records = events.point_records(earlier, start_step) if start_step > 0 else {}
        self._known = set(records)  # events that stand, by step and tags
        self._file = events.EventFile(folder)
        for record in records.values():
            self._file.add_record(record)
        self._earlier = earlier

    def begin(self, step: int, header: list[events.Value]) -> None:
        """Write what opens the session, after which the earlier files are not needed."""
        self._file.add(step, header)
        for path in self._earlier:
            os.truncate(path, 0)
        cut_embeddings(self.folder, step)

    def draw(self, nodes: Collection[Node]) -> None:
        """Write the graph of the model, with what its operations cost."""
        self._file.add_record(events.graph_record(nodes))
        self._file.add_record(events.cost_record(nodes))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars, but those of constant curves."""
        for at, values in self._varying.points(step, scalars).items():
            self.add(at, [events.scalar(shown_tag(tag), number) for tag, number in values.items()])

    def add(self, step: int, values: list[events.Value]) -> None:
        """Write an event, unless it stands already: a run that goes on may log what it logged at its step."""
        point = (step, *(value.tag for value in values))
        if values and point not in self._known:
            self._file.add(step, values)
            self._known.add(point)

    def end(self, step: int, closing_values: list[events.Value]) -> None:
        """Write what closes the session, and close the file, also where the disk takes no more."""
        with closing(self._file) as file:
            file.add(step, closing_values)


class TensorBoard(Callback):
    """Write the events of a run; of several members, those of each, and of their mean."""

    def __init__(self) -> None:
        self._whole: Curves | None = None
        self._members: list[Curves] = []

    def on_start(self, run: Run) -> None:
        self._mute = {tag for tag, is_higher_better in run.directions.items() if is_higher_better is None} | MUTE
        name, names = names_of(run)
        varying = [Varying(self._mute) for _ in (name, *names)]
        for record in run.history.records():
            scalars = {tag: value for tag, value in record.items() if tag != "step"}
            for each, own in zip(varying, by_member(scalars, len(names), self._mute), strict=True):
                each.points(int(record["step"]), own)
        folders = [run.directory / each for each in (name, *names)]
        opened = [Curves(folder, run.start_step, each) for folder, each in zip(folders, varying, strict=True)]
        self._whole, *self._members = opened
        shown = hyperparameters(run.config, following(run.directory / "config.yaml"))
        metrics = ["loss", *run.config.get("metrics", {})]
        if nodes := run.graph():
            opened[0].draw(nodes)
        start = [] if names else [events.session_start(shown, point_of(run, {}))]
        opened[0].begin(run.start_step, [*start, *_texts(run), events.layout(metrics, bands=bool(names))])
        for curves, values in zip(self._members, run.members, strict=True):
            start = events.session_start(shown | hyperparameters(values), point_of(run, values))
            curves.begin(run.start_step, [start, events.layout(metrics)])

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._whole is None:
            return
        own, *others = by_member(scalars, len(self._members), self._mute)
        self._whole.log(step, own)
        for curves, each in zip(self._members, others, strict=True):
            curves.log(step, each)

    def on_media(self, step: int, tag: str, medium: Medium) -> None:
        if self._whole is not None:
            if isinstance(medium, Embedding):
                write_embedding(self._whole.folder, step, tag, medium)
            is_among_curves = isinstance(medium, Image | Histogram)  # TIME SERIES shows these, too
            self._whole.add(step, values_of(medium, shown_tag(tag) if is_among_curves else tag))

    def on_end(self, summary: Summary) -> None:
        whole, members, self._whole, self._members = self._whole, self._members, None, []
        end = [events.session_end(success=summary.status != "failed")]
        for curves in members:
            curves.end(summary.step, end)
        if whole is not None:
            whole.end(summary.step, [] if members else end)


def by_member(scalars: Mapping[str, float], count: int, mute: Collection[str] = ()) -> list[dict[str, float]]:
    """Sort scalars by run: those of all members together, and each member's own under the tags of a single run.

    Beside the mean over the members stand the lowest and the highest value, `<tag>/lowest` and `<tag>/highest`.

    Args:
      scalars: by tag; `<tag>/<member>` is the tag of one.
      count: number of members; 0 for a single run.
      mute: tags such as learning rates, which stand with all members together where all have the same value.
    """
    runs: list[dict[str, float]] = [{} for _ in range(count + 1)]
    for tag, value in scalars.items():
        head, _, tail = tag.rpartition("/")
        is_own = count and tail.isdecimal() and head in scalars and int(tail) < count
        runs[int(tail) + 1 if is_own else 0][head if is_own else tag] = value
    for tag in dict.fromkeys(tag for own in runs[1:] for tag in own):
        values = [own[tag] for own in runs[1:] if tag in own]
        if tag not in mute:
            runs[0] |= {f"{tag}/lowest": min(values), f"{tag}/highest": max(values)}
        elif len(set(values)) == 1:
            for own in runs[1:]:
                own.pop(tag, None)
    return runs


def _texts(run: Run) -> list[events.Value]:
    config = OmegaConf.to_yaml(OmegaConf.create(dict(run.config)))
    chosen = Table(("key", "value"), [*run.overrides.items()]).markdown() if run.overrides else "nothing but defaults"
    return [
        events.text("run/chosen", chosen),
        events.text("run/config", f"```yaml\n{config}```"),
        events.text("run/facts", Table(("fact", "value"), [*run.facts.items()]).markdown()),
        events.text("run/parameters", parameter_markdown(run.parameters)),
    ]


def parameter_markdown(parameters: Iterable[Parameter]) -> str:
    """Return the parameter table in Markdown, with a last row for the total."""
    rows = [(f"`{p.path}`", " × ".join(map(str, p.shape)), p.dtype, f"{p.size:,}", p.size) for p in parameters]
    total = ("**total**", "", "", f"**{sum(row[-1] for row in rows):,}**")
    return Table(("parameter", "shape", "dtype", "size"), [*(row[:-1] for row in rows), total]).markdown()
