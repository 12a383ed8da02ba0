"""The verb `evaluate`."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.command import Command
from framework.commands.answers import plain, print_json
from framework.commands.arguments import Arguments
from framework.errors import ConfigError, InterruptError
from framework.startup import import_jax

if TYPE_CHECKING:
    from framework.trained.evaluated import Evaluation, Subject


def evaluate() -> Command:
    """Measure a trained model."""
    return Command("evaluate", "measure a trained model, on its data or on others", run, group="train")


def run(words: list[str]) -> None:
    """Measure a trained model, and print its metrics.

    Raises: FrameworkError; InterruptError after a signal, with what was found so far saved.
    """
    arguments = Arguments(
        "evaluate",
        "Measure a trained model on a split of its data by the metrics of its run, exactly as during training. "
        "Overrides name other data, or more metrics. After Ctrl-C the same command goes on where it was stopped.",
        "evaluate runs/mnist/20260101-120000-1a2b@best metrics+=perplexity",
        "RUN [KEY=VALUE ...] [options]",
    )
    arguments.add_trained()
    arguments.add_words()
    arguments.add_argument("--split", metavar="NAME", help="test, validation or train (test, where there is one)")
    arguments.add_argument("--values", metavar="FILE", help="write values of each example: .csv, .npz or .parquet")
    arguments.add_argument("--worst", type=int, default=None, metavar="N", help="list the examples of the largest loss")
    arguments.add_json()
    arguments.add_argument("--config-dir", "-cd", metavar="DIR", help="folder of configs of your own")
    given = arguments.read(words)
    if given.worst is not None and given.worst < 0:
        raise ConfigError(f"expected a number from 0, found {given.worst}.", key="--worst")
    from framework_after import tables

    if given.values is not None:
        tables.check(Path(given.values))
    import_jax()
    from framework.sweeps.best import best_run
    from framework.trained import evaluated as evaluations

    subject = evaluations.opened(best_run(given.run), given.words, given.member, given.config_dir)
    split = evaluations.split_of(subject.experiment, given.split)
    found = _evaluated(subject, split, given)
    columns = evaluations.columns_of(found)
    if given.values is not None:
        tables.write(Path(given.values), _placed(subject, split, columns))
    report = _report(subject, split, found, _worst(subject, split, columns, _number_of_worst(given)))
    if given.json:
        print_json(report)
    else:
        sys.stdout.write(_text(report, subject, given))


def _number_of_worst(given: Namespace) -> int:
    return given.worst if given.worst is not None else 10 * (given.values is not None)


def _evaluated(subject: Subject, split: str, given: Namespace) -> Evaluation:
    """Evaluate, from where the same command was stopped before; a signal saves what was found.

    Raises: InterruptError.
    """
    from framework.records.logs import LOGGER, console
    from framework.runs import signals
    from framework.trained.evaluated import evaluated
    from framework_after import unfinished

    with_values = _number_of_worst(given) > 0 or given.values is not None
    before, file = None, None
    with console(), signals.stop_requests() as stopping:
        if unfinished.is_there(subject):
            file = unfinished.path_of(subject, split, given.words, with_values)
            before = unfinished.read(file)
            if before is not None:
                LOGGER.info(f"going on after {before.examples:,} examples")
        found = evaluated(subject, split, with_values, before, stopping)
        if found.signal is not None:
            unfinished.save(unfinished.path_of(subject, split, given.words, with_values), found)
            text = f"{found.signal.name} after {found.examples:,} examples; the same command goes on from there."
            raise InterruptError(text, signals.exit_code(found.signal))
    if file is not None:
        file.unlink(missing_ok=True)
    return found


def _placed(subject: Subject, split: str, columns: dict[str, Any]) -> dict[str, Any]:
    """Add where each example comes from, in words, where that is known."""
    import numpy as np

    from framework.trained.evaluated import places_of

    where = places_of(subject.experiment, split)
    return columns if where is None else {**columns, "place": np.array([where(int(row)) for row in columns["id"]])}


def _worst(subject: Subject, split: str, columns: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Return the examples of the largest loss, the worst first; those without a finite loss come first of all."""
    import numpy as np

    if number <= 0 or "loss" not in columns:
        return []
    loss = np.where(np.isfinite(columns["loss"]), columns["loss"], np.inf)
    rows = np.argsort(-loss, kind="stable")[:number]
    placed = _placed(subject, split, {name: column[rows] for name, column in columns.items()})
    classes = subject.record.facts.get("classes")
    listed = [dict(zip(placed, row, strict=True)) for row in zip(*(c.tolist() for c in placed.values()), strict=True)]
    if isinstance(classes, list):
        named = {str(k): name for k, name in enumerate(classes)}
        for row in listed:
            row |= {key: named.get(str(row[key]), row[key]) for key in ("target", "predicted") if key in row}
    return listed


def _report(subject: Subject, split: str, found: Evaluation, worst: list[dict[str, Any]]) -> dict[str, Any]:
    from framework.trained.evaluated import metrics_of

    return {
        "run": str(subject.place.directory),
        "step": subject.place.step,
        **({"member": subject.member} if subject.record.members else {}),
        "split": split,
        "source": subject.experiment.data.source,
        "examples": found.examples,
        "metrics": {name: _number(value) for name, value in metrics_of(subject, found).items()},
        **({"worst": [{key: _number(value) for key, value in row.items()} for row in worst]} if worst else {}),
    }


def _number(value: Any) -> Any:
    """Return a number as JSON has it: those that are not finite are texts, as in `metrics.jsonl`."""
    return plain(float(value)) if isinstance(value, float) else value


def _text(report: dict[str, Any], subject: Subject, given: Namespace) -> str:
    from framework.console.tables import text_table

    member = f", member {report['member']} of {len(subject.record.members or ())}" if "member" in report else ""
    lines = [f"{report['run']}@{report['step']}{member}, split '{report['split']}'"]
    lines += [f"{report['examples']:,} examples: {report['source']}", ""]
    logged = {} if any(word.lstrip("+~").startswith("data") for word in given.words) else _logged(report, subject)
    names = list(report["metrics"])
    rows = [["metric", "value", *(["in the run"] if logged else [])]]
    rows += [
        [name, _shown(report["metrics"][name]), *([_shown(logged.get(name, ""))] if logged else [])] for name in names
    ]
    lines.append(text_table(rows, right=range(1, len(rows[0]))))
    if worst := report.get("worst"):
        head = list(worst[0])
        lines += ["", f"worst {len(worst)} by loss:"]
        lines.append(text_table([head, *([_shown(row[key]) for key in head] for row in worst)]))
    if given.values is not None:
        lines += ["", f"written: {given.values}"]
    return "\n".join(lines) + "\n"


def _logged(report: dict[str, Any], subject: Subject) -> dict[str, float]:
    """Return what the run logged of this step and split, by metric; of a member, its own values."""
    from framework.records.history import MetricsFile

    splits = subject.experiment.data.splits
    if report["split"] not in splits:  # a run logs means over its updates of the training data, not a measure of them
        return {}
    tag = "eval" if report["split"] == splits[0] else report["split"]
    records = MetricsFile(subject.place.directory, subject.record.id).records(subject.place.step or 0)
    record = next((each for each in records if each["step"] == subject.place.step), {})
    ending = f"/{report['member']}" if "member" in report else ""
    keys = {name: f"{tag}/{name}{ending}" for name in report["metrics"]}
    return {name: record[key] for name, key in keys.items() if key in record}


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
