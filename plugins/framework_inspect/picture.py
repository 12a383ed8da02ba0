"""A picture of a stack of layers, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from framework_inspect.layers import Layer
from framework_inspect.numbers import scaled

WIDTH, HEIGHT, GAP, INDENT = 360, 46, 14, 14
"""Size of a box, distance of boxes, and inset of a stack within another, in pixels."""

STYLE = (
    "text{font:13px sans-serif;fill:#222}.small{font-size:11px;fill:#666}.layer{fill:#eef3fb;stroke:#4a6fa5}"
    ".stack{fill:none;stroke:#9aa;stroke-dasharray:4 3}line{stroke:#4a6fa5;marker-end:url(#to)}"
)


def picture(title: str, inputs: str, rows: Sequence[Layer]) -> str:
    """Draw layers as boxes from top to bottom, in the order in which they run, and stacks as frames around them.

    Args:
      title: of the picture.
      inputs: shapes of the model's inputs, in words.
      rows: a row of a stack is followed by those of its layers.
    """
    depth = max((row.path.count("/") for row in rows), default=0)
    width = WIDTH + 2 * INDENT * (depth + 1)
    parts, y = [_text(width / 2, 20, title), _text(width / 2, 40, inputs, "small")], 46
    open_stacks: list[tuple[str, int]] = []
    for index, row in enumerate(rows):
        y = _close(open_stacks, row.path, parts, y, width)
        is_stack = index + 1 < len(rows) and rows[index + 1].path.startswith(f"{row.path}/")
        if is_stack:
            open_stacks.append((row.path, y + GAP // 2))
            parts.append(_text(INDENT * len(open_stacks) + 6, y + GAP // 2 + 13, row.path, "small", "start"))
            y += GAP // 2 + 16
        else:
            parts += _box(row, y, width)
            y += GAP + HEIGHT
    y = _close(open_stacks, "", parts, y, width)
    marker = '<marker id="to" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
    marker += '<path d="M0,0 L6,3 L0,6 z" fill="#4a6fa5"/></marker>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + GAP}">'
    return "\n".join([head, f"<defs>{marker}</defs><style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _box(row: Layer, y: int, width: int) -> list[str]:
    """Draw an arrow to a layer, and its box."""
    left, top, middle = (width - WIDTH) / 2, y + GAP, width / 2
    known = row.outputs or "outputs unknown"
    about = f"{known}  ·  {row.parameters:,} parameters  ·  {scaled(row.forward + row.backward)}FLOP"
    return [
        f'<line x1="{middle}" y1="{y}" x2="{middle}" y2="{top - 1}"/>',
        f'<rect class="layer" x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        _text(middle, top + 19, row.path.rpartition("/")[2]),
        _text(middle, top + 36, about, "small"),
    ]


def _close(open_stacks: list[tuple[str, int]], path: str, parts: list[str], y: int, width: int) -> int:
    """Draw the frames of stacks that the next row is no longer in; return where that row begins."""
    while open_stacks and not path.startswith(f"{open_stacks[-1][0]}/"):
        _, top = open_stacks.pop()
        left = INDENT * (len(open_stacks) + 1)
        y += GAP // 2
        parts.append(f'<rect class="stack" x="{left}" y="{top}" width="{width - 2 * left}" height="{y - top}" rx="8"/>')
    return y


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
