"""The verbs `runs`, `show`, `compare` and `report`: they read run folders, and import no JAX."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.command import Command
from framework.commands.answers import print_json
from framework.commands.arguments import Arguments
from framework.console.terminal import page_width
from framework.errors import ConfigError, StorageError, printable, writing

if TYPE_CHECKING:
    from framework_runs.reading import Run

EXAMPLE = "runs/mnist/20260101-120000-1a2b"


def runs() -> Command:
    """List runs."""
    return Command("runs", "list runs with status and metrics; filter, sort", run_runs, group="look up")


def show() -> Command:
    """Show one run."""
    return Command("show", "show a run: status, metrics, curves, what to do next", run_show, group="look up")


def compare() -> Command:
    """Compare runs."""
    return Command("compare", "show what differs between runs, and if it is chance", run_compare, group="look up")


def report() -> Command:
    """Write a report."""
    return Command("report", "write runs as one HTML page with curves and media", run_report, group="look up")


def run_runs(words: list[str]) -> None:
    """List the runs below folders.

    Raises: ConfigError, StorageError.
    """
    arguments = Arguments(
        "runs",
        "List all runs below folders, oldest first, with status, time and last metrics. A key is a metric, a key of "
        "the config, or one of status, debug, name, label, seed, step, seconds, started and folder.",
        "runs --where 'eval/accuracy>0.99' --sort eval/loss",
        "[ROOT ...] [options]",
    )
    arguments.add_argument("roots", nargs="*", metavar="ROOT", help="folder of runs (runs)")
    about = "keep runs of which this is true, such as 'eval/accuracy>0.99' or status=done; all of several"
    arguments.add_argument("--where", action="append", default=[], metavar="CONDITION", help=about)
    about = "sort by a key: a metric from its best value on, all else from low to high"
    arguments.add_argument("--sort", metavar="KEY", help=about)
    arguments.add_argument("--reverse", action="store_true", help="sort the other way round")
    arguments.add_argument("--keys", metavar="KEY,KEY", help="columns to show after the time (the usual metrics)")
    arguments.add_json()
    given = arguments.read(words)
    from framework_runs import listing, query
    from framework_runs.reading import find

    roots = [Path(root) for root in given.roots or ["runs"]]
    if not given.roots and not roots[0].is_dir():
        raise StorageError("there is no folder 'runs' here; name the folder that holds your runs.")
    found, broken = find(roots)
    conditions = [query.condition(text) for text in given.where]
    keys = [key for key in (given.keys or "").split(",") if key]
    asked = [*keys, *(each.key for each in conditions), *([given.sort] if given.sort else [])]
    if found:
        query.check_keys(asked, found)
    kept = [run for run in found if all(each.holds(run) for each in conditions)]
    if given.sort:
        kept = query.ordered(kept, given.sort, given.reverse)
    elif given.reverse:
        kept.reverse()
    if given.json:
        print_json({"runs": [listing.as_json(run) for run in kept], "unreadable": [str(error) for error in broken]})
    elif kept:
        told = [*([given.sort] if given.sort else []), *(each.key for each in conditions)]
        keys = keys or listing.columns(kept, told)
        print_text(listing.table(kept, roots[0] if len(roots) == 1 else Path(), keys, page_width()))
    else:
        print_text(f"no runs in {', '.join(map(str, roots))}" + (f" of {len(found)} match" if found else ""))
    if broken and not given.json:
        more = f" And {len(broken) - 1} more." if len(broken) > 1 else ""
        sys.stderr.write(f"left out: {broken[0]}{more}\n")


def run_show(words: list[str]) -> None:
    """Show one run.

    Raises: ConfigError, StorageError.
    """
    arguments = Arguments(
        "show",
        "Show a run on one screen: its status, what was chosen for it, last and best values of its metrics with their "
        "curves, who started it where, and what can be done next.",
        f"show {EXAMPLE}",
        "RUN [--json]",
    )
    arguments.add_argument("run", metavar="RUN", help="run folder; of a folder of runs, its newest run is shown")
    arguments.add_json()
    given = arguments.read(words)
    from framework_runs import showing
    from framework_runs.reading import find, read

    folder = Path(given.run)
    if folder.is_dir() and not (folder / "run.json").exists() and (found := find([folder])[0]):
        folder = found[-1].folder
    run = read(folder)
    if given.json:
        print_json(showing.as_page(run))
    else:
        print_text(showing.text(run, page_width()))


def run_compare(words: list[str]) -> None:
    """Compare runs.

    Raises: ConfigError, StorageError.
    """
    arguments = Arguments(
        "compare",
        "Compare runs: keys of the config, code and metrics that differ; equal ones are hidden. Runs that differ in "
        "their seed alone are one point. With several seeds of each, the difference has a 95 % bootstrap interval, of "
        "pairs where seeds are the same, and the verdict says how many seeds would tell.",
        "compare runs/mnist --plot accuracy.svg",
        "RUN RUN ... [options]",
    )
    arguments.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a folder of runs")
    arguments.add_argument("--metrics", metavar="TAG,TAG", help="metrics to compare (the usual ones)")
    arguments.add_argument("--plot", metavar="FILE", help="draw the curves of the metrics as .svg or .png")
    arguments.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    arguments.add_json()
    given = arguments.read(words)
    from framework_runs import comparing, query

    found = _found(given.runs)
    if len(found) < 2:
        raise ConfigError(f"compare: expected two runs or more, found {len(found)} in {', '.join(given.runs)}.")
    tags = [tag for tag in (given.metrics or "").split(",") if tag]
    query.check_keys(tags, found)
    comparison = comparing.compare(found, tags)
    if given.json:
        print_json(comparing.as_json(comparison))
    elif given.markdown:
        print_text(comparing.markdown(comparison))
    else:
        print_text(comparing.text(comparison, page_width()))
    if given.plot:
        _plot(Path(given.plot), comparison, list(comparison.metrics))


def run_report(words: list[str]) -> None:
    """Write a report.

    Raises: ConfigError, StorageError.
    """
    arguments = Arguments(
        "report",
        "Write one HTML file about a run, or about all runs below a folder: a table, what differs, curves, and the "
        "newest media of each run. It opens without a server or a network, and is smaller than 2 MB.",
        f"report {EXAMPLE}",
        "RUN|FOLDER ... [--out FILE]",
    )
    arguments.add_argument("runs", nargs="+", metavar="RUN|FOLDER", help="run folder, or a folder of runs")
    arguments.add_argument("--out", metavar="FILE", help="file to write (report.html in the first folder)")
    arguments.add_json()
    given = arguments.read(words)
    from framework_runs.page import page

    found = _found(given.runs)
    if not found:
        raise StorageError(f"there are no runs in {', '.join(given.runs)}.")
    path = Path(given.out) if given.out else Path(given.runs[0], "report.html")
    title = f"{found[0].record.get('name')}: {found[0].folder.name}" if len(found) == 1 else f"{len(found)} runs"
    content = page(found, title).encode(errors="replace")
    with writing(path):
        path.write_bytes(content)
    if given.json:
        print_json({"file": str(path), "bytes": len(content), "runs": len(found)})
    else:
        print_text(f"{path}: {len(found)} run{'s' if len(found) > 1 else ''}, {len(content) / 1e6:.2f} MB")


def _found(places: list[str]) -> list[Run]:
    from framework_runs.reading import find  # YAML, for which help does not wait

    runs, broken = find([Path(place) for place in places])
    if broken and not runs:
        raise broken[0]
    for error in broken:
        sys.stderr.write(f"left out: {error}\n")
    return runs


def _plot(path: Path, comparison: Any, tags: list[str]) -> None:
    from framework_runs.curves import charts
    from framework_runs.picture import png, svg

    drawn = charts(comparison.points, tags)
    if not drawn:
        raise ConfigError(f"no run has a curve of {', '.join(tags)}: one value each makes none.", key="--plot")
    columns = 2 if len(drawn) > 1 else 1
    if path.suffix not in (".svg", ".png"):
        raise ConfigError(f"expected a file that ends with .svg or .png, found '{path}'.", key="--plot")
    content = svg(drawn, columns).encode() if path.suffix == ".svg" else png(drawn, columns)
    with writing(path):
        path.write_bytes(content)


def print_text(text: str) -> None:
    """Show a text with our colours alone."""
    # Our colours are obeyed; whatever else a name holds is shown.
    parts = re.split(r"(\x1b\[\d{1,2}m)", text)
    sys.stdout.write("".join(part if k % 2 else printable(part) for k, part in enumerate(parts)) + "\n")
