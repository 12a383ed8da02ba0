"""Points that differ in seeds and single numbers as members of one program, the others in turn."""

from __future__ import annotations

from collections.abc import Iterator

from framework.api import Here, Job, Launcher, Outcome, Size


def vmapped(members: Size = 64) -> Launcher:
    """Train points together that differ in seeds, or in numbers on which no shape and no branch depends.

    One program is traced and compiled for each group, and a step of all costs little more than that of one, where one
    does not fill the machine. Each point has a run folder, a record, checkpoints and curves of its own, and is, to
    rounding, its solo run. The members of a group are spread over the local devices. Other points are trained in turn.

    Args:
      members: largest number in one program.
    """
    return Vmapped(members)


class Vmapped(Launcher):
    """As many points at once as there are, or as one program takes."""

    def __init__(self, members: int) -> None:
        self.slots = members

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Take what waits, put it into groups, and train one after the other."""
        is_over = False
        while not is_over:
            taken: list[Job] = []
            while len(taken) < self.slots and (job := next(jobs, None)) is not None:
                taken.append(job)
            is_over = not taken
            for group in here.groups(taken):
                yield from here.train_together(group)
