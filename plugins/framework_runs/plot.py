"""The verb `plot`: it draws the results of a sweep."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from framework.command import Command
from framework.commands.answers import print_json
from framework.commands.arguments import Arguments
from framework.errors import ConfigError, writing
from framework_runs.commands import print_text

if TYPE_CHECKING:
    from framework_runs.drawn import Sweep

KINDS = ("curves", "parallel", "slices", "importances", "front")

ENDINGS = (".png", ".svg", ".html")


def plot() -> Command:
    """Draw a sweep."""
    return Command("plot", "draw a sweep: curves, parallel coordinates, slices, importances", run, group="look up")


def run(words: list[str]) -> None:
    """Draw a sweep into a file.

    Raises: ConfigError without Matplotlib, or if there is nothing to draw; StorageError.
    """
    arguments = Arguments(
        "plot",
        "Draw the results of a sweep: curves with a band of one standard deviation over seeds, parallel coordinates, a "
        "slice for each parameter, how much each parameter matters, and, where several metrics are to improve, their "
        "Pareto front. A setting has the same colour in all charts, and in those of compare and report.",
        "plot sweeps/mnist/20260101-120000-1a2b --kind slices --out slices.svg",
        "SWEEP [options]",
    )
    arguments.add_argument("folder", metavar="SWEEP", help="folder of the sweep")
    arguments.add_argument("--out", metavar="FILE", help="file to write, .png, .svg or .html (SWEEP/plots.png)")
    about = f"of {', '.join(KINDS)}; several with commas (all that have something to show)"
    arguments.add_argument("--kind", metavar="KIND,KIND", help=about)
    arguments.add_json()
    given = arguments.read(words)
    path = Path(given.out) if given.out else Path(given.folder, "plots.png")
    if path.suffix not in ENDINGS:
        raise ConfigError(f"expected a file that ends with .png, .svg or .html, found '{path}'.", key="--out")
    from framework_runs.drawn import sweep_of
    from framework_runs.figures import kinds_of, picture, shares_of

    sweep = sweep_of(Path(given.folder))
    kinds = _chosen(given.kind, list(kinds_of(sweep)))
    drawn = picture(sweep, kinds, "png" if path.suffix == ".png" else "svg")
    content = _page(sweep, drawn.decode()).encode() if path.suffix == ".html" else drawn
    with writing(path):
        path.write_bytes(content)
    if given.json:
        shares = {goal.tag: shares_of(sweep, goal.tag) for goal in sweep.goals}
        print_json({"file": str(path), "bytes": len(content), "kinds": kinds, "importances": shares})
    else:
        print_text(f"{path}: {', '.join(kinds)} of {len(sweep.settings)} settings, {len(content) / 1e6:.2f} MB")


def _chosen(text: str | None, shown: list[str]) -> list[str]:
    kinds = [kind for kind in (text or "").split(",") if kind] or shown
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no chart is called '{kind}'; there are {', '.join(KINDS)}.", key="--kind")
        if kind not in shown:
            raise ConfigError(f"this sweep has nothing to show as {kind} (but as {', '.join(shown)}).", key="--kind")
    return kinds


def _page(sweep: Sweep, svg: str) -> str:
    """Return the picture and the table as one HTML file, which opens without a server or a network."""
    title = escape(str(sweep.results.directory))
    style = "body{margin:16px auto;max-width:1200px;font:14px system-ui,sans-serif}svg{width:100%;height:auto}"
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{style}</style>"
    picture = svg[svg.index("<svg") :]
    return f"{head}<h1>{title}</h1>{picture}<pre>{escape(sweep.results.text())}</pre></html>\n"
