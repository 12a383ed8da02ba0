"""A report as one HTML file with curves, tables and media, which opens without a server or a network."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from framework_runs import layout
from framework_runs.comparing import Comparison, compare, letter, sections
from framework_runs.curves import POINTS, charts
from framework_runs.listing import labels, usual
from framework_runs.naming import label, seed_of
from framework_runs.palette import PALETTE, colours
from framework_runs.picture import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, drawing, scales
from framework_runs.reading import Run

LARGEST = 1_900_000
"""Bytes of a page: what can be sent by mail, and opens at once."""

CURVES = 600_000
"""Bytes that curves may take together."""

DETAILED = 60
"""Runs whose config and media are told one by one."""

LISTED = 12
"""Rows of a table that are shown."""

POINT = re.compile(r"(\d+)\.(png|csv|txt|json)")


def page(runs: Sequence[Run], title: str) -> str:
    """Return the report of one run, or of several with their comparison."""
    comparison = compare(runs)
    parts = [f"<h1>{escape(title)}</h1>", _overview(runs, comparison)]
    if len(comparison.points) > 1:
        parts.append(_comparison(comparison))
    parts.append(_curves(comparison))
    used = sum(map(len, parts)) + len(STYLE) + len(SCRIPT) + 1000
    left_out = 0
    for run in runs[-DETAILED:]:
        # Each run has its share, so that the first ones do not take the room of the others.
        share = (LARGEST - used) // max(1, len(runs[-DETAILED:]))
        text, missing = _details(run, share, is_open=len(runs) == 1)
        parts.append(text)
        left_out += missing
    notes = (
        [f"{len(runs) - DETAILED} older runs are in the table and the curves alone."] if len(runs) > DETAILED else []
    )
    notes += [f"{left_out} media are left out, so that the page stays small; they lie in media/."] if left_out else []
    parts += [f"<p class=note>{escape(note)}</p>" for note in notes]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"{head}<main>{''.join(parts)}</main><script>{SCRIPT}</script></html>\n"


def _overview(runs: Sequence[Run], comparison: Comparison) -> str:
    own = colours([point.key for point in comparison.points])
    colour_of = {run.folder: own[point.key].value for point in comparison.points for run in point.runs}
    tags = usual(runs)
    rows = [["", "run", "status", "seed", "step", "time", *tags, "folder"]]
    for run, name in zip(runs, labels(runs), strict=True):
        swatch = f"<i style='background:{colour_of[run.folder]}'></i>"
        status = f"<b class={escape(run.status)}>{escape(run.status)}</b>"
        values = [layout.number(run.metrics.get(tag)) for tag in tags]
        cells = [name, status, seed_of(run), run.step, layout.duration(run.seconds), *values]
        shown = [cell if cell is status else escape(str(cell)) for cell in cells]
        rows.append([swatch, *shown, f"<code>{escape(str(run.folder))}</code>"])
    return _table(rows)


def _comparison(comparison: Comparison) -> str:
    letters = [letter(k) for k in range(len(comparison.points))]
    own = colours([point.key for point in comparison.points])
    names = [
        f"<p><i style='background:{own[point.key].value}'></i> <b>{name}</b> {escape(point.label)}, "
        f"{len(point.runs)} run{'s' if len(point.runs) > 1 else ''}</p>"
        for name, point in zip(letters, comparison.points, strict=True)
    ]
    parts = ["<h2>What differs</h2>", *names]
    for title, rows in sections(comparison):
        table = [[title, *letters], *([f"<code>{escape(key)}</code>", *map(escape, row)] for key, row in rows.items())]
        parts.append(_table(table))
    several = [told for told in comparison.told if told.found.low is not None]
    rows = [["metric", "points", "difference", "95 % interval", ""]]
    for told in several:
        found, pair = told.found, f"{letters[told.right]} − {letters[told.left]}"
        cells = [told.tag, pair, f"{found.mean:+.3g}", f"{found.low:+.3g} to {found.high:+.3g}", told.verdict]
        rows.append([*map(escape, cells)])
    return "".join([*parts, _table(rows) if several else ""])


def _curves(comparison: Comparison) -> str:
    lines = sum(len(chart.curves) for chart in charts(comparison.points, most=2))
    most = max(16, min(POINTS, CURVES // (12 * max(1, lines))))
    found = []
    for chart in charts(comparison.points, most=most):
        x, y = scales(chart)
        axes = f"data-x='{x.low} {x.high}' data-y='{y.low} {y.high}'"
        height = HEIGHT + 17 * len(chart.curves) + 6
        found.append(f"<svg class=chart {axes} viewBox='0 0 {WIDTH} {height}' width={WIDTH}>{drawing(chart)}</svg>")
    return f"<h2>Curves</h2><div class=grid>{''.join(found)}</div>" if found else ""


def _details(run: Run, room: int, is_open: bool) -> tuple[str, int]:
    """Return what one run has of its own, in so many bytes, and the number of media that did not fit."""
    overrides = run.record.get("overrides")
    chosen = [[f"<code>{escape(str(k))}</code>", escape(str(v))] for k, v in (overrides or {}).items()]
    typed = [
        [escape(layout.moment(str(s.get("started")))), f"<code>{escape(str(s.get('typed')))}</code>"]
        for s in run.starts
    ]
    parts = [_table([["chosen", ""], *chosen])] if chosen else []
    parts += [_table([["started", "typed"], *typed])] if typed else []
    parts += [_members(run)] if run.members else []
    config = escape(json.dumps(run.record["config"], indent=1))
    parts.append(f"<details><summary>config</summary><pre>{config[: max(0, room // 2)]}</pre></details>")
    left, media, missing = room - sum(map(len, parts)), [], 0
    for tag, path in _newest(run.folder / "media"):
        shown = _medium(tag, path)
        if len(shown) <= left:
            media.append(shown)
            left -= len(shown)
        else:
            missing += 1
    body = "".join([*parts, f"<div class=grid>{''.join(media)}</div>" if media else ""])
    name = escape(label(run))
    return f"<details{' open' if is_open else ''}><summary><b>{name}</b></summary>{body}</details>", missing


def _members(run: Run) -> str:
    values = list(dict.fromkeys(key for row in run.members for key in row.get("values") or ()))
    tags = list(dict.fromkeys(tag for row in run.members for tag in row.get("metrics") or ()))
    rows = [["member", *map(escape, [*values, *tags])]]
    for row in run.members:
        own = [row.get("member"), *((row.get("values") or {}).get(key) for key in values)]
        own += [(row.get("metrics") or {}).get(tag) for tag in tags]
        rows.append([escape(layout.number(each)) for each in own])
    return _table(rows)


def _newest(folder: Path) -> list[tuple[str, Path]]:
    """Return the newest file of each tag."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        point = POINT.fullmatch(path.name)
        if point and path.is_file() and not path.is_symlink():
            tag = path.parent.relative_to(folder).as_posix()
            if tag not in found or int(point[1]) > found[tag][0]:
                found[tag] = int(point[1]), path
    kinds = (".png", ".json", ".csv", ".txt")
    return sorted(((tag, path) for tag, (_, path) in found.items()), key=lambda each: kinds.index(each[1].suffix))


def _medium(tag: str, path: Path) -> str:
    if path.stat().st_size > LARGEST:
        return " " * (LARGEST + 1)
    content = path.read_bytes()
    caption = f"<figcaption>{escape(tag)}, step {int(path.name.partition('.')[0])}</figcaption>"
    if path.suffix == ".png":
        return (
            f"<figure>{caption}<img alt='' src='data:image/png;base64,{base64.b64encode(content).decode()}'></figure>"
        )
    text = content.decode(errors="replace")
    if path.suffix == ".csv":
        cells = list(csv.reader(text.splitlines()))
        if cells and {"precision", "recall"} <= set(cells[0]):
            return f"<figure>{caption}{_precision(cells)}</figure>"
        rows = [[escape(_rounded(cell)) for cell in row] for row in cells[: LISTED + 1]]
        return f"<figure>{caption}{_table(rows)}</figure>" if rows else ""
    if path.suffix == ".json":
        bars = _bars(text)
        return f"<figure>{caption}{bars}</figure>" if bars else ""
    return f"<figure>{caption}<pre>{escape(text[:4000])}</pre></figure>"


def _precision(cells: Sequence[Sequence[str]]) -> str:
    """Draw precision over recall."""
    columns = [cells[0].index(name) for name in ("recall", "precision")]
    try:
        points = [[float(row[column]) for column in columns] for row in cells[1:]]
    except (ValueError, IndexError):
        return ""
    # Where nothing is found, precision has no value, and 0 stands for it.
    points = [each for each in points if any(each)]
    path = " ".join(f"{8 + 150 * recall:.1f},{158 - 150 * precision:.1f}" for recall, precision in points)
    line = f"<polyline points='{path}' fill='none' stroke='{PALETTE[0]}' stroke-width='1.5'/>"
    frame = "<rect x=8 y=8 width=150 height=150 fill='none' stroke='#ccc'/>"
    axes = "<text x=8 y=170 font-size=10>recall → precision ↑</text>"
    return f"<svg viewBox='0 0 166 172' width=166>{frame}{line}{axes}</svg>"


def _rounded(cell: str) -> str:
    """Write a long number with five digits."""
    try:
        return cell if len(cell) < 8 else f"{float(cell):.5g}"
    except ValueError:
        return cell


def _bars(text: str) -> str:
    """Draw a histogram; "" for other JSON."""
    try:
        found = json.loads(text)
        edges, counts = [float(each) for each in found["edges"]], [float(each) for each in found["counts"]]
    except (ValueError, TypeError, KeyError):
        return ""
    most, span = max(counts, default=0), (edges[-1] - edges[0]) if edges else 0
    if not most or not span:
        return ""
    bars = "".join(
        f"<rect x='{280 * (left - edges[0]) / span:.1f}' y='{90 - 90 * count / most:.1f}' "
        f"width='{280 * (right - left) / span:.1f}' height='{90 * count / most:.1f}' fill='{PALETTE[0]}'/>"
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )
    right = f"<text x=280 y=104 font-size=11 text-anchor=end>{edges[-1]:.3g}</text>"
    ends = f"<text y=104 font-size=11>{edges[0]:.3g}</text>{right}"
    return f"<svg viewBox='0 0 280 108' width=280>{bars}{ends}</svg>"


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of cells that are HTML; the first row has the headings."""
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


STYLE = """
body{margin:0;font:14px/1.45 system-ui,sans-serif;color:#222;background:#fff}
main{max-width:1340px;margin:auto;padding:16px}
h1{font-size:22px}h2{font-size:17px;margin-top:28px}p{margin:4px 0}.note{color:#555}
table{border-collapse:collapse;margin:8px 0}.wide{overflow-x:auto}
th,td{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid #e5e5e5;vertical-align:top}
td{font-variant-numeric:tabular-nums}th{color:#555;font-weight:600;white-space:nowrap}
code,pre{font:12px/1.4 ui-monospace,monospace}pre{overflow:auto;max-height:420px}
i{display:inline-block;width:11px;height:11px;border-radius:2px}
.grid{display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start}
.chart{flex:1 1 440px;max-width:652px;height:auto}
figure{margin:0;max-width:100%}figcaption{color:#555;font-size:12px}
img{max-width:420px;min-width:140px;image-rendering:pixelated}summary{cursor:pointer;padding:4px 0}
.done{color:#00694e}.failed{color:#b00020}.killed,.stopped,.interrupted{color:#8a5a00}
#tip{position:fixed;pointer-events:none;background:#fffe;border:1px solid #bbb;border-radius:4px;padding:4px 8px}
#tip{font-size:12px;display:none}
"""

SCRIPT = f"""
const tip=document.body.appendChild(document.createElement('div'));tip.id='tip';
for(const chart of document.querySelectorAll('svg.chart')){{
 const [x0,x1]=chart.dataset.x.split(' ').map(Number),[y0,y1]=chart.dataset.y.split(' ').map(Number);
 chart.addEventListener('mouseleave',()=>tip.style.display='none');
 chart.addEventListener('mousemove',event=>{{
  const at=new DOMPoint(event.clientX,event.clientY).matrixTransform(chart.getScreenCTM().inverse());
  if(at.x<{LEFT}||at.x>{WIDTH - RIGHT}||at.y<{TOP}||at.y>{HEIGHT - BOTTOM}){{tip.style.display='none';return}}
  tip.replaceChildren();let shown=null;
  for(const line of chart.querySelectorAll('polyline')){{
   let near=null;for(const point of line.points)if(!near||Math.abs(point.x-at.x)<Math.abs(near.x-at.x))near=point;
   if(!near)continue;
   const step=Math.round(x0+(near.x-{LEFT})/{WIDTH - LEFT - RIGHT}*(x1-x0));
   const value=y0+({HEIGHT - BOTTOM}-near.y)/{HEIGHT - TOP - BOTTOM}*(y1-y0);
   const row=tip.appendChild(document.createElement('div'));row.style.color=line.getAttribute('stroke');
   row.textContent=`${{value.toPrecision(4)}} at ${{step}}  ${{line.dataset.name}}`;
  }}
  tip.style.display='block';
  tip.style.left=Math.min(event.clientX+14,innerWidth-tip.offsetWidth-8)+'px';
  tip.style.top=Math.min(event.clientY+14,innerHeight-tip.offsetHeight-8)+'px';
 }});
}}
"""
