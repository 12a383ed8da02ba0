"""Points one after the other, in the process of the sweep."""

from __future__ import annotations

from collections.abc import Iterator

from framework.api import Here, Job, Launcher, Outcome


def turn() -> Launcher:
    """Train the points one after the other in this process, which imports and compiles once for all of them."""
    return Turn()


class Turn(Launcher):
    """One point at a time."""

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Train each job before the next one is asked for."""
        for job in jobs:
            if job is None:
                return  # nothing runs here, so that nothing will come
            yield here.train(job)
