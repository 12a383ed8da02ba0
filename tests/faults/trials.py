"""Trials of the harness's rows: draws that can be replayed one by one, and counts of the failures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Outcome(NamedTuple):
    """The outcome of a row."""

    done: int  # trials
    failed: int
    details: tuple[str, ...] = ()  # a line for each failure, and figures


class Draws(random.Random):
    """The randomness of one row. Each trial has its own, so that one can be replayed without those before it."""

    def __init__(self, row: str, tier: int, seed: int, only: int | None = None) -> None:
        super().__init__(f"{row}/{seed}")
        self.row, self.tier, self.number, self.only = row, tier, seed, only

    def __new__(cls, *_: object) -> Draws:
        return super().__new__(cls)

    def trials(self, count: int) -> Iterator[tuple[int, random.Random]]:
        """Numbers and generators of `count` trials, or of the one that is to be replayed."""
        for index in range(count) if self.only is None else [self.only]:
            yield index, random.Random(f"{self.row}/{self.number}/{index}")

    def replay(self, index: int) -> str:
        """The command that runs one trial again."""
        return f"python -m tests.faults {self.row} --tier {self.tier} --seed {self.number} --only {index}"


def run_trials(draws: Draws, count: int, trial: Callable[[int, random.Random], str | None]) -> Outcome:
    """Run trials, each of which returns what is wrong, or None."""
    details, done = [], 0
    for index, generator in draws.trials(count):
        done += 1
        if problem := trial(index, generator):
            details.append(f"{problem}  [{draws.replay(index)}]")
    return Outcome(done, len(details), tuple(details))
