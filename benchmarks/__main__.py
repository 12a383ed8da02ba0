"""`python -m benchmarks`: the framework against loops by hand, and against peers where they are installed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import CONTENDERS
from benchmarks.images import find_mnist
from benchmarks.machine import describe
from benchmarks.report import summarise, table
from benchmarks.session import Session, trials
from benchmarks.trial import Trial
from benchmarks.workloads import WORKLOADS


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    arguments = _parser().parse_args(words)
    synthetic = arguments.synthetic or (0 if find_mnist() else 60_000)
    session = Session(
        workloads=arguments.workloads or list(WORKLOADS),
        contenders=arguments.contenders or [],
        measures=arguments.measures,
        rounds=arguments.rounds,
        attempts=arguments.attempts,
        patience=arguments.patience,
        steps=arguments.steps,
        window=arguments.window,
        synthetic=synthetic,
    )
    measured: list[Trial] = []
    try:
        measured.extend(trials(session))
    finally:  # an hour's trials are not lost with the last one
        rows = summarise(measured)
        print(table(rows))
        if arguments.json:
            written = [{**trial._asdict(), "clean": trial.clean} for trial in measured]
            record = {"machine": describe(), "session": session._asdict(), "rows": rows, "trials": written}
            Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    known = [f"{name}: {w.about}" for name, w in WORKLOADS.items()]
    known += [f"{name}: {c.about}{'' if c.installed else ' (not installed)'}" for name, c in CONTENDERS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog="\n".join(known), formatter_class=_Formatter
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help="default: all", choices=[*WORKLOADS, []])
    add("--contenders", type=_names, metavar="A,B", help="default: loops by hand, the framework, installed peers")
    add("--measures", type=lambda text: text.split(","), default=["steady", "start"], metavar="steady,start")
    add("--rounds", type=int, default=5, help="each runs every contender once")
    add("--attempts", type=int, default=3, help="for a trial that others disturb")
    add("--patience", type=float, default=10, help="seconds to wait for a quiet machine before an attempt")
    add("--steps", type=int, default=0, help="timed ones; default: the workload's own")
    add("--window", type=int, default=50, help="steps between two readings of the metrics")
    add("--synthetic", type=int, default=0, metavar="N", help="use N random images, not MNIST of $FRAMEWORK_DATA")
    add("--json", metavar="FILE", help="write all trials and ratios there")
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults, and one line for each thing that can be named."""


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CONTENDERS or not CONTENDERS[name].installed]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown or not installed: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
