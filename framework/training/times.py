"""Wall time of a loop, divided into what it is spent on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from framework.tags import PARTS, SHARE


class Times:
    """A watch that is always on one part, so that the parts add up to the whole.

    Attributes:
      seconds: by part, up to the last change.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._logged = dict(self.seconds)
        self._part, self._since = "other", time.perf_counter()

    def now(self) -> tuple[str, float]:
        """Return the part that goes on, and for how many seconds; another thread may ask."""
        return self._part, time.perf_counter() - self._since

    def switch(self, part: str) -> str:
        """Put the time from here on to a part, and return the part before."""
        now, before = time.perf_counter(), self._part
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    def recast(self, part: str) -> None:
        """Put the time since the last change to another part, which is known only afterwards."""
        self._part = part

    def compiled(self, seconds: float) -> None:
        """Put seconds that have just passed to compiling. A call of the train step is recast as a whole instead."""
        if self._part not in ("compiling", "dispatch"):
            now = time.perf_counter()
            moved = min(seconds, now - self._since)
            self.seconds[self._part] += now - self._since - moved
            self.seconds["compiling"] += moved
            self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Put the time inside the context to a part, but for the parts within it."""
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def shares(self) -> dict[str, float]:
        """Return the share of each part since the last call, by tag: "perf/share/data"."""
        self.switch(self._part)
        spent = {part: seconds - self._logged[part] for part, seconds in self.seconds.items()}
        self._logged, whole = dict(self.seconds), sum(spent.values())
        return {f"{SHARE}{part}": seconds / whole for part, seconds in spent.items()} if whole else {}


def largest_parts(seconds: Mapping[str, float]) -> list[str]:
    """Say where the time went, the largest part first: ["71 % device", "20 % compiling", "9 % others"]."""
    whole = sum(seconds.values())
    if whole <= 0:
        return []
    ranked = sorted(((value / whole, part) for part, value in seconds.items() if part != "other"), reverse=True)
    large = [(share, part) for share, part in ranked if share >= 0.02]
    rest = 1 - sum(share for share, _ in large)
    told = [*large, (rest, "others")] if rest >= 0.005 else large
    return [f"{100 * share:.0f} % {part}" for share, part in told]


def duration(seconds: float) -> str:
    """Write seconds as people do: "12.3 s", "2:05 min", "1:02:05 h"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
