"""The text of a live line: `epoch 2/4 ▕████▏ 51 % · step 468/1872 · loss 0.051 · acc 0.985 · 7.9k ex/s · 0:32 left`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from framework.api import Run, width_of
from framework.errors import printable
from framework_callbacks.pace import Pace, clock, metric_prefix

WORDS = {"compiling": "compiling", "evaluation": "evaluating", "checkpoints": "saving", "data": "waiting for data"}
"""Words for a part of the loop, while it does nothing else."""

AWHILE = 0.5
"""Seconds after which something is said to go on."""

SHORT = {"accuracy": "acc"}

UNSAID = ("learning_rate", "live_members")
"""Metrics that say little while a run goes on: the first follows a schedule, the second is nearly always all."""

LEAST, MOST = 4, 20
"""Columns of the bar, without its two ends."""

DIGITS = 6
"""Columns that a number is expected to take: 0.0512."""

BLOCKS = " ▏▎▍▌▋▊▉█"

BETWEEN = " · "


class Line:
    """The text of a run's progress at any moment, in any width.

    Each piece keeps the largest width that it had, and space is kept for those that are to come, so that nothing moves.
    If not all fit, the later ones of `_ranked` are left out.
    """

    def __init__(self, run: Run, pace: Pace) -> None:
        self.pace, self._run, self._step = pace, run, run.start_step
        self._numbers = dict.fromkeys(names_of(run.directions), math.nan)  # until there are some
        self._widths = {"percent": len("100 %"), "left": len("0:00 left"), "speed": len("0.00k ex/s")}

    def update(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take note of what was logged."""
        self.pace.update(step, scalars)
        self._step = step
        # Replaced as a whole, since another thread reads it.
        self._numbers = {name: scalars[f"train/{name}"] for name in names_of(scalars)} or self._numbers

    def text(self, width: int) -> str:
        """Return the line, at most so many columns wide."""
        pieces = self._pieces()
        for name, text in pieces.items():
            self._widths[name] = max(self._widths.get(name, 0), width_of(text))
        left, shown = width + len(BETWEEN), set[str]()
        for name in _ranked(pieces):
            needed = LEAST + 3 if name == "bar" else self._widths[name] + len(BETWEEN)  # two ends and a space
            if needed <= left:
                left -= needed
                shown.add(name)
        if "bar" in shown:
            pieces["bar"] = drawn_bar(self._step / max(self.pace.total, 1), min(LEAST + left, MOST))
        padded = {name: _padded(text, self._widths[name]) for name, text in pieces.items() if name in shown and text}
        # Epoch, bar and percentage stand together, without a dot between them.
        told = [" ".join(padded.pop(name) for name in ("epoch", "bar", "percent") if name in padded), *padded.values()]
        if said := self._said():
            told = told[: len(told) - sum(name in padded for name in ("speed", "left"))]
            while len(told) > 1 and width_of(BETWEEN.join([*told, said])) > width:
                told.pop()
            told.append(said)
        return BETWEEN.join(told).rstrip()

    def _said(self) -> str:
        """Say what goes on, where that takes a while, such as "compiling 0:03"."""
        part, seconds = self._run.now()
        return f"{WORDS[part]} {clock(seconds)}" if part in WORDS and seconds >= AWHILE else ""

    def _pieces(self) -> dict[str, str]:
        """Return all that could be shown, from left to right; "" for what is not known yet."""
        step, pace, total = self._step, self.pace, max(self.pace.total, 1)
        numbers = {f"number {name}": f"{SHORT.get(name, printable(name))} " for name in self._numbers}
        for name, text in numbers.items():
            self._widths[name] = max(self._widths.get(name, 0), width_of(text) + DIGITS)
        values = zip(numbers.items(), self._numbers.values(), strict=True)
        return {
            "epoch": pace.epoch(step),
            "bar": "",
            "percent": f"{math.floor(100 * step / total):3d} %",
            "step": f"step {pace.count(step)}",
            **{name: "" if math.isnan(value) else text + three_digits(value) for (name, text), value in values},
            "speed": "" if pace.rate is None else f"{metric_prefix(pace.rate)} ex/s",
            "left": pace.left(),
        }


def names_of(tags: Iterable[str]) -> list[str]:
    """Return the names of the metrics of training that are one number, the loss first."""
    names = [tag.removeprefix("train/") for tag in tags if tag.startswith("train/") and tag.count("/") == 1]
    return sorted((name for name in names if name not in UNSAID), key=lambda name: name != "loss")


def _ranked(pieces: Mapping[str, str]) -> list[str]:
    """Order the names of pieces by how much they say."""
    numbers = [name for name in pieces if name.startswith("number ")]
    return ["percent", *numbers[:1], "left", "bar", "epoch", *numbers[1:2], "step", "speed", *numbers[2:]]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))


def drawn_bar(share: float, width: int) -> str:
    """Draw a share, from 0 to 1, as a bar of so many columns between two ends: "▕███▌  ▏"."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return f"▕{('█' * full + (BLOCKS[rest] if rest else '')).ljust(width)}▏"


def three_digits(number: float) -> str:
    """Return a number with three digits that count: 0.0512, 0.985, 12.3, 1.23e-05."""
    return f"{number:#.3g}".rstrip(".")
