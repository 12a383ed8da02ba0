"""A launcher that chooses one of the others by a measurement."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from framework.api import Here, Job, Launcher, Outcome, Size
from framework_launchers.turn import Turn
from framework_launchers.vmapped import Vmapped


def auto(members: Size = 64) -> Launcher:
    """Train points together where one program of them is faster, as measured for about a second, and else in turn.

    The choice and its reason are said in one line. Points that cannot be one program are trained in turn, which imports
    once for all of them; `launcher=processes` isolates them.

    Args:
      members: largest number in one program.
    """
    return Auto(members)


class Auto(Launcher):
    """One of two launchers, by the first points that wait."""

    def __init__(self, members: int) -> None:
        self.slots = members

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Look at the first points, choose, and hand all to what was chosen."""
        first: list[Job] = []
        while len(first) < self.slots and (job := next(jobs, None)) is not None:
            first.append(job)
        largest = max(here.groups(first), key=len, default=())
        is_faster, reason = here.pays_together(largest) if len(largest) > 1 else (False, "")
        if reason:
            here.say(f"launcher: {'vmapped' if is_faster else 'turn'}, since {reason}")
        chosen = Vmapped(self.slots) if is_faster else Turn()
        yield from chosen.launch(itertools.chain(first, jobs), here)
