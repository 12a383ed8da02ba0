"""Media of a run: files under `media/<tag>/<step>`, handed on to callbacks that write them elsewhere."""

from __future__ import annotations

import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.api import Callback, Media, Medium
from framework.distributed import processes
from framework.errors import PluginError, StorageError, writing
from framework.experiment import NamedCallback
from framework.training.callbacks import notify

TAG = re.compile(r"\w[\w .,=+()-]{0,99}(/\w[\w .,=+()-]{0,99}){0,9}")
"""Names between slashes, each of which can be the name of a folder."""

POINT = re.compile(r"(\d+)\.[a-z.]+")
"""The name of a file: its step and its ending."""


class MediaFolder:
    """The media of one run, each point as files that common programs open. Of several processes, only process 0 writes.

    A file appears by a rename, so that a killed process leaves no half of one. A point that is shown again replaces its
    file.
    """

    def __init__(self, directory: Path, callbacks: tuple[NamedCallback, ...]) -> None:
        self._folder = directory / "media"
        self._callbacks = [each for each in callbacks if type(each.callback).on_media is not Callback.on_media]
        self._sinks = self._callbacks
        self._waiting: list[tuple[int, str, Medium]] | None = []  # None once all callbacks were started

    def cut(self, step: int) -> None:
        """Remove the points beyond a step (all, for step 0) and what a killed process left, before callbacks start.

        Raises: StorageError if that cannot be done, or if a file or folder is a symbolic link, which could lead out of
          the run folder.
        """
        self._sinks, self._waiting = self._callbacks, []
        for place, folders, files in os.walk(self._folder):
            for path in (Path(place) / name for name in (*folders, *files)):
                if path.is_symlink():
                    raise StorageError(f"{path} is a symbolic link, and a run writes no such; remove it.")
            for path in (Path(place) / name for name in files):
                point = POINT.fullmatch(path.name)
                is_beyond = point is not None and (step == 0 or int(point[1]) > step)
                if is_beyond or path.name.endswith(".partial"):
                    with writing(path):
                        path.unlink()

    def open(self) -> None:
        """Hand on what was shown while callbacks were started, and from here on everything at once."""
        waiting, self._waiting = self._waiting or [], None
        for point in waiting:
            notify(self._sinks, "on_media", *point)

    def leave(self, label: str) -> None:
        """Hand nothing more on to a callback, which is about to end."""
        self._sinks = [each for each in self._sinks if each.label != label]

    def show(self, label: str, tag: str, kind: Any, value: Any, step: int) -> None:
        """Write a point and hand it on.

        Args:
          label: of the callback that shows it, for messages.
          kind: a type of medium, whose `of` makes one of the value.

        Raises: PluginError naming callback and tag if tag, step or value are not right; StorageError if the files
          cannot be written; what a callback raises that it is handed on to.
        """
        if processes.index() > 0:
            return
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise PluginError(f"{label}: the tag is {tag!r}, expected words between slashes, such as 'samples/digits'.")
        try:
            step, medium = operator.index(step), kind.of(value)
            if step < 0:
                raise ValueError(f"the step is {step}, expected 0 or more")
        except (TypeError, ValueError) as error:
            raise PluginError(f"{label}: {kind.__name__.lower()} '{tag}' cannot be shown: {error}.") from error
        self._write(self._folder.joinpath(*tag.split("/")), step, medium)
        if self._waiting is None:
            notify(self._sinks, "on_media", step, tag, medium)
        else:
            self._waiting.append((step, tag, medium))

    def _write(self, folder: Path, step: int, medium: Medium) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for ending, content in medium.files().items():
            path = folder / f"{step:08d}.{ending}"
            partial = folder / f".{path.name}.partial"
            with writing(path):
                try:
                    partial.write_bytes(content)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class ShownBy(Media):
    """The media of a run as one callback shows them.

    Attributes:
      label: of the callback.
    """

    folder: MediaFolder
    label: str

    def show(self, tag: str, kind: Any, value: Any, step: int) -> None:
        """Write a point and hand it on."""
        self.folder.show(self.label, tag, kind, value, step)
