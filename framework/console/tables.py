"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate


def narrowed(rows: Sequence[Sequence[str]], width: int | None, least: int = 2) -> Sequence[Sequence[str]]:
    """Keep as many of the first columns as fit into a width, but at least `least`; without a width, all."""
    sizes = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    fitting = sum(total - 2 <= (width or total) for total in accumulate(sizes))
    return [row[: max(least, fitting)] for row in rows]


def text_table(rows: Sequence[Sequence[str]], right: Collection[int] = (), width: int | None = None) -> str:
    """Align rows of cells in columns, two spaces apart.

    Args:
      rows: all of the same length; a first row of headings is a row as others.
      right: columns whose cells end, rather than begin, in one line.
      width: characters in a line, beyond which the last cell is wrapped; None never wraps. The last column keeps at
        least 24, and the terminal breaks what is longer than its lines.
    """
    from rich.console import Console  # a tenth of a second, which only those pay who show a table
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    columns = range(len(rows[0]))
    for column in columns:
        is_last = column == columns[-1]
        table.add_column(justify="right" if column in right else "left", no_wrap=not is_last, overflow="fold")
    for row in rows:
        table.add_row(*row)
    widths = [max(len(row[column]) for row in rows) + 2 for column in columns]
    least = sum(widths[:-1]) + 24
    console = Console(
        width=max(width, least) if width else sum(widths), color_system=None, markup=False, emoji=False, highlight=False
    )
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
