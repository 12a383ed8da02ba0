"""The verbs `inspect`, `keys` and `doctor`: from words to a report, and from a report to text, JSON and a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from framework.command import Command
from framework.commands.answers import print_json
from framework.commands.arguments import Arguments, config_of
from framework.config.sizes import bytes_of
from framework.console.terminal import telling
from framework.errors import writing


def inspect() -> Command:
    """Say what an experiment is made of, and what a run of it will cost."""
    about = "show layers, costs and origins of an experiment, untrained"
    return Command("inspect", about, run_inspect, group="look up")


def keys() -> Command:
    """List the random streams of an experiment."""
    return Command("keys", "show the random streams of an experiment", run_keys, group="look up")


def doctor() -> Command:
    """Examine an installation."""
    return Command("doctor", "examine versions, devices, plugins, data and disk", run_doctor, group="look up")


def run_inspect(words: list[str]) -> None:
    """Inspect an experiment and print a report.

    Raises: FrameworkError, as a run would; StorageError if a file cannot be written.
    """
    arguments = Arguments(
        "inspect",
        "Show the layers of a model with their outputs, parameters and operations, the memory that the compiler "
        "expects, the size of a checkpoint, the number of steps, and where config values come from. No step is made.",
        "inspect +experiment=mnist --memory 8GiB",
        "[RUN] [KEY=VALUE ...] [options]",
    )
    arguments.add_config()
    arguments.add_argument("--config", action="store_true", help="list every config value with its origin")
    arguments.add_argument("--depth", type=_depth, metavar="N", help="levels of stacks in the table (what fits)")
    arguments.add_argument("--quick", action="store_true", help="compile nothing, so that memory stays unknown")
    arguments.add_argument("--memory", type=_memory, metavar="SIZE", help="find the largest batch that fits, as 8GiB")
    arguments.add_argument("--bench", metavar="FILE", help="report of `bench --json`, for the expected time")
    arguments.add_argument("--graph", metavar="FILE", help="draw the stack as SVG")
    arguments.add_argument("--jaxpr", action="store_true", help="print the traced step instead of the report")
    arguments.add_argument("--hlo", action="store_true", help="print the compiled step instead of the report")
    arguments.add_json()
    given = arguments.read(words)
    config = config_of(given.words, given.config_dir)
    from framework_inspect import report as reports

    wanted = reports.Wanted(
        budget=given.memory,
        bench=given.bench,
        jaxpr=given.jaxpr,
        hlo=given.hlo,
        compiler=not given.quick,
        config=given.config or given.json,
    )
    with telling() as say:

        def show_trace(report: reports.Report) -> None:
            if not (given.jaxpr or given.hlo or given.json):
                sys.stdout.write(f"{reports.text_of_trace(report, given.depth)}\n")
                sys.stdout.flush()  # the compiler may take longer than all before
            if not given.quick:
                say("asking the compiler about memory")

        report = reports.inspect(config, wanted, show_trace)
    programs = [text for text in (report.jaxpr, report.hlo) if text is not None]
    shown = (
        "\n".join(programs)
        if given.jaxpr or given.hlo
        else reports.text_of_compiler(report if given.config else report._replace(config=()))
    )
    if given.json:
        print_json({name: value for name, value in report._asdict().items() if name not in ("jaxpr", "hlo")})
    else:
        sys.stdout.write(f"{shown}\n")
    if given.graph is not None:
        from framework_inspect.layers import to_depth
        from framework_inspect.picture import picture

        with writing(Path(given.graph)):
            Path(given.graph).write_text(
                picture(report.experiment, report.inputs, to_depth(report.layers, given.depth))
            )
        sys.stdout.write("" if given.json else f"written: {given.graph}\n")


def run_keys(words: list[str]) -> None:
    """List the random streams of an experiment.

    Raises: FrameworkError, as a run would.
    """
    arguments = Arguments(
        "keys",
        "List the random streams of init and of a train step: the names that are folded into the root key, the layer "
        "that draws, and how many numbers. A stream that comes or goes changes no other one.",
        "keys +experiment=char_gpt model.dropout=0.1",
        "[RUN] [KEY=VALUE ...] [options]",
    )
    arguments.add_config()
    arguments.add_json()
    given = arguments.read(words)
    config = config_of(given.words, given.config_dir)
    from framework_inspect import keys

    found = keys.keys(config)
    if given.json:
        print_json(found)
    else:
        sys.stdout.write(f"{keys.text(found)}\n")


def run_doctor(words: list[str]) -> int:
    """Examine the installation.

    Returns: 0, or 2 if something has to be mended.
    """
    arguments = Arguments(
        "doctor",
        "Examine versions, devices, plugins, data, disk, compilation cache, and variables of the environment that "
        "change results, each with what to do. It ends with exit code 2 if something has to be mended.",
        "doctor --json",
    )
    arguments.add_json()
    given = arguments.read(words)
    from framework_inspect import doctor

    found = doctor.examine()
    if given.json:
        print_json(found)
    else:
        sys.stdout.write(f"{doctor.text(found)}\n")
    return 2 if any(finding.state == "bad" for finding in found) else 0


def _memory(text: str) -> int:
    return bytes_of(text, "--memory")


def _depth(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of levels, at least 1, found '{text}'")
    return int(text)
