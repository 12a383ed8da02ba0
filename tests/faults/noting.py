"""The strategy `noted`: that is `jit`, and tells when each compiled call begins. It is a plugin, as a third party's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.contracts.strategy import Strategy, StrategyWrapper
from framework_strategies.jit import jit


def unheard(_: str) -> None:
    """Note nothing."""


note: Callable[[str], None] = unheard
"""Takes the word "call"; a child that is watched sets it."""


@dataclass(frozen=True)
class Noted(StrategyWrapper):
    """A strategy whose calls are noted."""

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, noted before it begins."""

        def begun(*args: Any) -> Any:
            note("call")
            return call(*args)

        return begun


def noted() -> Strategy:
    """One device, one compiled step, noted."""
    return Noted(jit())


def register(folder: Path) -> None:
    """Put a distribution on the path that registers the strategy."""
    info = folder / "noted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[framework.strategies]\nnoted = tests.faults.noting:noted\n")
    sys.path.insert(0, str(folder))
