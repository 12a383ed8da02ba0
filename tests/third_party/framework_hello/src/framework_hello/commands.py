"""A verb of the command line, which shows the data in the terminal."""

from __future__ import annotations

import sys

from framework.command import Command
from framework.commands.arguments import Arguments

COLUMNS, ROWS = 64, 24


def draw_spirals() -> Command:
    """Draw the two spirals in the terminal."""
    return Command("draw-spirals", "draw the two spirals in the terminal", run)


def run(words: list[str]) -> None:
    """Draw the points of the test split, those of one spiral as `o`, those of the other as `x`."""
    arguments = Arguments(
        "draw-spirals", "Draw the points of the test split in the terminal.", "draw-spirals --turns 1.5"
    )
    arguments.add_argument("--turns", type=float, default=1.0, metavar="N", help="of each spiral (1)")
    turns = arguments.read(words).turns
    from framework_hello.data import spirals  # JAX, for which `framework help` does not wait

    lines = [[" "] * COLUMNS for _ in range(ROWS)]
    batch = next(spirals(turns=turns).eval("test"))
    for (x, y), target in zip(batch["inputs"].clip(-1, 1), batch["targets"], strict=True):
        lines[round((1 - y) / 2 * (ROWS - 1))][round((x + 1) / 2 * (COLUMNS - 1))] = "ox"[target]
    sys.stdout.writelines("".join(line).rstrip() + "\n" for line in lines)
