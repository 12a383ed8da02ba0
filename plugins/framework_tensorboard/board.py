"""The verb `board`: TensorBoard on a folder of runs, which shows all that they wrote, by short names."""

from __future__ import annotations

import argparse
import io
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from framework.command import Command
from framework.commands.arguments import Arguments
from framework.errors import ConfigError
from framework.records.neighbours import RUNS, refusal

EVENTS = "*/events.out.tfevents.*"
"""Event files below a run folder."""

KEPT = ("scalars", "images", "histograms", "text", "pr_curves", "audio", "tensors")
"""Kinds of points of which TensorBoard would keep 1,000 scalars and 10 images."""

POINTS = 10**9
"""Points kept of each curve. Of 0, which stands for all, TensorBoard's tabs show none."""

NO_RESULT = re.compile("~|.*learning_rate")
"""Tags that are no axis of HPARAMS."""

LOOK = 5
"""Seconds between two looks for new runs; TensorBoard reads as often."""


def board() -> Command:
    """Start TensorBoard on a folder of runs."""
    return Command("board", "show runs in TensorBoard, by short names and with every point", run, group="look up")


def run(words: list[str]) -> None:
    """Start TensorBoard, print its address, and show new runs as they come, until a signal ends it.

    Raises: StorageError if there is no such folder; ConfigError if the port is taken.
    """
    arguments = Arguments(
        "board",
        "Start TensorBoard on a folder of runs. It keeps every point that the runs wrote, names a run by its "
        "experiment and by what was chosen for it, and shows new runs as they come. Ctrl-C ends it.",
        "board runs --port 6007",
        "[RUNS] [options]",
    )
    arguments.add_argument("runs", nargs="?", default="runs", help="a run folder, or one that holds some (runs)")
    arguments.add_argument("--port", type=_port, metavar="N", help="port (6006, or the next that is free)")
    arguments.add_argument("--host", default="localhost", metavar="NAME", help="address to listen at (localhost)")
    given = arguments.read(words)
    root = Path(given.runs)
    if not root.is_dir():
        raise refusal(root, RUNS)
    from framework_tensorboard.seeds import Means  # imports JAX

    with TemporaryDirectory(prefix="framework-board-") as folder, _until_a_signal():
        names, means = Names(root, Path(folder)), Means(Path(folder))
        names.look()
        means.look(names.runs)
        print(
            f"TensorBoard of {len(names)} runs: {start(folder, given.host, given.port)}  (Ctrl-C ends it)", flush=True
        )
        while True:
            time.sleep(LOOK)
            names.look()
            means.look(names.runs)


class Names:
    """A folder of links to the folders of events below a root, each by a name that stays: TensorBoard follows them."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._linked: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self._linked)

    @property
    def runs(self) -> list[Path]:
        """The run folders, in which the folders of events lie."""
        return list(dict.fromkeys(place.parent for place in self._linked))

    def look(self) -> None:
        """Link the folders that are new."""
        for place in sorted({path.parent.resolve() for path in self._root.rglob(EVENTS)}):
            if place not in self._linked:
                taken = self._linked.values()
                # The run folder's own name begins with its time.
                name = place.name if place.name not in taken else f"{place.name} {place.parent.name}"
                name = name if name not in taken else f"{name} {len(self._linked)}"
                (self._folder / name).symlink_to(place)
                self._linked[place] = name


def start(folder: str | Path, host: str, port: int | None) -> str:
    """Start TensorBoard in threads of this process, and return its address.

    Raises: ConfigError if it cannot listen there.
    """
    from tensorboard import default, program
    from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin

    plugins = [_hparams() if each is HParamsPlugin else each for each in default.get_plugins()]
    server = program.TensorBoard(plugins=plugins)
    kept = ",".join(f"{kind}={POINTS}" for kind in KEPT)
    options = [f"--logdir={folder}", f"--host={host}", f"--samples_per_plugin={kept}", f"--reload_interval={LOOK}"]
    server.configure(argv=["tensorboard", *options, *([] if port is None else [f"--port={port}"])])
    try:
        with redirect_stderr(io.StringIO()):  # it advertises its loader
            return server.launch()
    except program.TensorBoardServerException as error:
        raise ConfigError(f"board: {error}", key="--port") from error


def _hparams() -> Any:
    """Return TensorBoard's HPARAMS tab without speeds and rates, which are no results, among its metrics."""
    from tensorboard.plugins.hparams import backend_context, hparams_plugin

    class Results(backend_context.Context):
        def _compute_metric_names(self, ctx: Any, experiment_id: Any, session_runs: Any) -> list[tuple[str, str]]:
            names = super()._compute_metric_names(ctx, experiment_id, session_runs)
            return [(tag, group) for tag, group in names if not NO_RESULT.match(tag)]

    class Hyperparameters(hparams_plugin.HParamsPlugin):
        def __init__(self, context: Any) -> None:
            super().__init__(context)
            self._context = Results(context)

    return Hyperparameters


@contextmanager
def _until_a_signal() -> Iterator[None]:
    """End the context at Ctrl-C or SIGTERM, and leave nothing behind."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.write("\n")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _port(word: str) -> int:
    number = int(word) if word.isdecimal() else -1
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{word} is no port, expected a number from 0 to 65535")
    return number
