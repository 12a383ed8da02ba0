"""A launcher that chooses one of the others by what it measures."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from framework.api import Here, Job, Launcher, Outcome, Size
from framework_launchers.processes import gpus, processes
from framework_launchers.turn import Turn
from framework_launchers.vmapped import Vmapped

START = 2.0
"""Seconds that a point takes more in a process of its own: imports, and programs that are read from the cache. Two at
once on 2 cores take as long."""

CLEARLY = 0.9
"""Share of the time in turn below which processes are worth their memory."""


def auto(members: Size = 64) -> Launcher:
    """Train points together where one program of them is faster, as measured for about a second, and else in turn.

    Points that are trained in turn are timed. After two of them the others get a process each, some at once, where that
    is faster: on a CPU, if a point keeps few cores busy and takes long beside its start. Where there are several GPUs
    and no two points fit into one program, each GPU takes a point at once. A choice and its reason are said in one
    line.

    Args:
      members: largest number in one program.
    """
    return Auto(members)


class Auto(Launcher):
    """One of three launchers, by the first points that wait."""

    def __init__(self, members: int) -> None:
        self.slots = members

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Look at the first points, choose, and hand all to what was chosen."""
        first: list[Job] = []
        while len(first) < self.slots and (job := next(jobs, None)) is not None:
            first.append(job)
        largest = max(here.groups(first), key=len, default=())
        left = itertools.chain(first, jobs)
        if len(largest) > 1:
            is_faster, reason = here.pays_together(largest)
            here.say(f"launcher: {'vmapped' if is_faster else 'turn'}, since {reason}")
            yield from (Vmapped(self.slots).launch(left, here) if is_faster else _in_turn(left, len(first), here))
        elif len(first) > 1 and (count := len(gpus())) > 1:
            here.say(f"launcher: processes, since {count} GPUs can train a point each")
            yield from processes().launch(left, here)
        else:
            if len(first) > 1:
                here.say("launcher: turn, since no two points fit into one program; docs/sweep.md says which do")
            yield from _in_turn(left, len(first), here)


class Timed(NamedTuple):
    """Seconds of a point that was trained in turn, and the cores that it kept busy."""

    seconds: float
    cores: float


def _in_turn(jobs: Iterator[Job | None], known: int, here: Here) -> Iterator[Outcome]:
    """Train in turn; after the second of the known points, go on in processes if that is faster.

    The first one compiles what later ones find in the cache.
    """
    chosen: Launcher = Turn()
    timed = Timed(0.0, 0.0)
    for _ in range(2):
        if (job := next(jobs, None)) is None:
            return
        outcome, timed = _timed(job, here)
        yield outcome
    # JAX has the devices of an accelerator in this process, so that no other could use them.
    if (left := known - 2) > 1 and _is_on_cpu():
        others = processes()
        is_faster, reason = pays(timed, left, others.slots, len(os.sched_getaffinity(0)))
        if is_faster:
            here.say(f"launcher: processes from here on, since {reason}")
            chosen = others
    yield from chosen.launch(jobs, here)


def _timed(job: Job, here: Here) -> tuple[Outcome, Timed]:
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = here.train(job)
    seconds = time.perf_counter() - wall
    return outcome, Timed(seconds, (time.process_time() - cpu) / seconds)


def pays(timed: Timed, points: int, workers: int, cores: int) -> tuple[bool, str]:
    """Estimate the time of points in turn, and in processes, from that of one in turn.

    Workers that together want more cores than there are slow each other down by as much.

    Args:
      timed: the one.
      points: that are left.
      workers: processes at once.
      cores: of the machine.

    Returns: whether processes are clearly faster, and the reason in a clause.
    """
    slower = max(1.0, timed.cores * workers / cores)
    apart = math.ceil(points / workers) * (timed.seconds + START) * slower
    in_turn = points * timed.seconds
    text = f"a point takes {timed.seconds:.2g} s and keeps {timed.cores:.1f} of {cores} cores busy; the other {points}"
    text += f" take about {in_turn:.2g} s in turn, and {apart:.2g} s {workers} at a time"
    return apart < CLEARLY * in_turn, text


def _is_on_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"
