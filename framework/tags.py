"""Tags of scalars that a callback watches: that they exist, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from framework.contracts.components import Run
from framework.errors import ConfigError, nearest

Mode = Literal["auto", "min", "max"]
"""Which way is better: low values, high ones, or what the metric itself declares."""


SPEED = "perf/examples_per_second"
"""Tag of the examples that training took a second since the last log, without evaluations."""

NO_METRICS = ("perf/", "probe/", "progress/")
"""Beginnings of tags that say nothing of how good a model is."""

EPOCH, EXAMPLES = "progress/epoch", "progress/examples"
"""Tags of the passes over the training data, with their fraction, and of the examples that each model has seen."""

COMPILED, COMPILE_SECONDS = "perf/compiles", "perf/compile_seconds"
"""Tags of the programs compiled since the last log, and of the seconds that it took."""

SHARE = "perf/share/"
"""Beginning of the tags that say how large a part of the time since the last log was spent on what."""

PARTS = ("data", "compiling", "dispatch", "device", "logging", "evaluation", "checkpoints", "other")
"""Parts of the time that the loop's thread spends.

data: waiting for a batch, or making it where no thread does.
compiling: calls of the train step that trace and compile it, and the compiler's time in all other parts.
dispatch: handing further calls to the devices; where they compute in this thread, as CPUs may, their work too.
device: waiting for results.
logging: callbacks and files that take metrics.
evaluation: evaluations.
checkpoints: callbacks that take states.
other: the rest of the loop.
"""


class WatchedTag:
    """The values of one tag, such as `eval/loss`, that a callback compares.

    Attributes:
      sign: 1 if low values are good, -1 if high ones are; set by `start`.
    """

    sign: int

    def __init__(self, option: str, tag: str, mode: Mode = "auto") -> None:
        """Take a tag as the user gave it.

        Args:
          option: the callback's option that holds the tag, for messages.
          tag: `<split>/<metric>`, with a suffix where the metric has several numbers.
          mode: "auto" takes the direction that the metric declares.

        Raises: ConfigError for the test split, which is measured after training.
        """
        if tag.startswith("test/"):
            raise ConfigError(f"{option}: '{tag}' is measured after training; watch eval/{tag.removeprefix('test/')}.")
        self.option, self.tag, self.mode = option, tag, mode

    def check(self, directions: Mapping[str, bool | None]) -> None:
        """Find the direction.

        Args:
          directions: those of `Run`; if it is empty, the tag is not looked for.

        Raises: ConfigError if the run will log no such tag, or if the mode is "auto" and the metric declares no
          direction.
        """
        name = "/".join(self.tag.split("/")[:2])  # a metric's own suffixes are known once it was measured
        if directions and name not in directions:
            text = f"{self.option}: this run logs no '{self.tag}'."
            raise ConfigError(f"{text}{nearest(self.tag, directions)}")
        is_higher_better = directions.get(name) if self.mode == "auto" else self.mode == "max"
        if is_higher_better is None:
            text = f"{self.option}: '{self.tag}' does not say which way is better"
            raise ConfigError(f"{text}; set mode=min if low values are good, or mode=max.")
        self.sign = -1 if is_higher_better else 1

    def start(self, run: Run) -> list[tuple[int, float]]:
        """Find the direction, and return (step, value) of what earlier processes of the run have logged in training.

        Raises: ConfigError, as `check`.
        """
        self.check(run.directions)
        values = run.history.series(self.tag)
        self._seen = bool(values)
        return [(step, value) for step, value in values if step > 0]

    def value(self, scalars: Mapping[str, float]) -> float | None:
        """Return the tag's value; None if these scalars are of something else.

        Raises: ConfigError if the tag's metric was logged, for the first time, without its suffix.
        """
        if self.tag in scalars:
            self._seen = True
            return scalars[self.tag]
        split, _, name = self.tag.partition("/")
        siblings = [tag for tag in scalars if tag.startswith(f"{split}/")]
        # A frozen member has no value. All tags of a split come together.
        if siblings and not self._seen and not name.rpartition("/")[2].isdecimal():
            raise ConfigError(f"{self.option}: this run logs no '{self.tag}'.{nearest(self.tag, siblings)}")
        return None
