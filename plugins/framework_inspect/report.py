"""The cost and the make of an experiment before it runs: `framework inspect +experiment=…`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from framework.config.compose import Config
from framework.config.sizes import in_words
from framework.console.tables import text_table
from framework.experiment import Experiment
from framework.trees import shapes_text
from framework_bench.bench import device_in_words
from framework_bench.timing import opened
from framework_inspect import costs
from framework_inspect.layers import Layer, layers_of, to_depth
from framework_inspect.numbers import clock, scaled
from framework_inspect.origins import Value, unread_of, values_of

UNKNOWN = "unknown"


class Wanted(NamedTuple):
    """Questions beside those that are always answered.

    Attributes:
      budget: bytes of a device, for which the largest batch is sought; None for no search.
      bench: file of a report of `framework bench --json`, for the expected time; None if there is none.
      jaxpr: keep the traced step as text.
      hlo: keep the compiled step as text.
      compiler: compile the step, for what only the compiler knows; that takes most of the time.
      config: list all config values with their origins, which takes longer than to list those that nobody reads.
    """

    budget: int | None = None
    bench: str | None = None
    jaxpr: bool = False
    hlo: bool = False
    compiler: bool = True
    config: bool = False


class Report(NamedTuple):
    """The answers of `inspect`; None stands for what is not known.

    Attributes:
      experiment: name of the experiment.
      device: strategy, devices and batch size, in words.
      inputs: dtypes and shapes of the model's inputs, in words.
      layers: rows of the table, stacks before the layers in them.
      parameters: numbers that the model learns.
      flops: floating-point operations of a step, on all devices together.
      flops_are_least: some loop does not tell how often it runs, and counts once.
      xla_flops: the same, as XLA counts them in the compiled program, loops once.
      memory: bytes on the device that holds most while a step runs, by what holds them.
      checkpoint_bytes: size of a checkpoint's arrays.
      examples: in a step, of all members together.
      steps_per_epoch: training batches in one pass over the data.
      total_steps: updates of the whole run.
      seconds: expected time of all steps, from a report of `bench`.
      data: source of the data, in words.
      data_seconds: spent on reading them, since their shapes are known only then.
      largest: the largest batch that fits, if it was asked for.
      unread: values that change nothing in this run.
      config: every value with its origin; empty if it was not asked for.
      jaxpr: the traced step, if it was asked for.
      hlo: the compiled step, if it was asked for.
    """

    experiment: str
    device: str
    inputs: str
    layers: tuple[Layer, ...]
    parameters: int
    flops: float
    flops_are_least: bool
    xla_flops: float | None
    memory: dict[str, int] | None
    checkpoint_bytes: int
    examples: int
    steps_per_epoch: int
    total_steps: int
    seconds: float | None
    data: str
    data_seconds: float
    largest: costs.Largest | None
    unread: tuple[Value, ...]
    config: tuple[Value, ...]
    jaxpr: str | None
    hlo: str | None


def inspect(
    config: Config,
    wanted: Wanted = Wanted(),  # noqa: B008 - it cannot be changed
    traced: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Trace and compile the step of an experiment, and tell what a run will cost; no step is made.

    Args:
      traced: is given the report as the trace alone tells it, while the compiler still works.

    Raises: FrameworkError as a run would, such as a ConfigError that names the layer whose inputs have a wrong shape.
    """
    with opened(config) as (experiment, _), ThreadPoolExecutor(1, "compiler") as beside:
        each = None if wanted.bench is None else costs.step_seconds(wanted.bench)
        step = costs.lowered(experiment) if wanted.compiler or wanted.hlo else None
        compiling = None if step is None else beside.submit(costs.compiled, step)
        layers = layers_of(experiment)
        report = Report(
            config.name,
            device_in_words(experiment),
            shapes_text(experiment.inputs),
            layers.rows,
            layers.parameters,
            layers.flops,
            layers.has_open_loops,
            None,
            None,
            costs.checkpoint_bytes(experiment),
            experiment.batch_size,
            experiment.data.steps_per_epoch,
            experiment.total_steps,
            None if each is None else each * experiment.total_steps,
            experiment.data.source,
            experiment.data_seconds,
            None,
            tuple(unread_of(config, experiment)),
            tuple(values_of(config, experiment)) if wanted.config else (),
            _jaxpr(experiment) if wanted.jaxpr else None,
            None,
        )
        traced(report)
        if compiling is not None:
            program = compiling.result()
            report = report._replace(
                xla_flops=None if program.flops is None else program.flops * experiment.devices,
                memory=_memory(program),
                hlo=program.program.as_text() if wanted.hlo else None,
            )
        if wanted.budget is not None:
            report = report._replace(largest=costs.largest_batch(experiment, wanted.budget))
        return report


def text(report: Report, depth: int | None = None) -> str:
    """Write the report as a table of layers and lines.

    Args:
      depth: levels of stacks that the table shows; by default as many as fit.
    """
    return f"{text_of_trace(report, depth)}\n{text_of_compiler(report)}"


def text_of_trace(report: Report, depth: int | None = None) -> str:
    """Write the part of the report that is known before the compiler is done, as a table of layers and lines."""
    unread = [("not read", f"{each.key} ({each.origin}): {each.unread}") for each in report.unread]
    table = layer_table(report, depth)
    return "\n".join(
        [f"{report.experiment}, {report.device}; inputs {report.inputs}", table, *_lines([*_facts(report), *unread])]
    )


def text_of_compiler(report: Report) -> str:
    """Write the lines that only the compiler knows, and below them the config, if it was asked for."""
    return "\n".join([*_lines(_costs(report)), *(["", config_table(report.config)] if report.config else [])])


def layer_table(report: Report, depth: int | None = None) -> str:
    """Align the layers in columns, with a last row for the whole step."""
    head = ("layer", "output", "size", "parameters", "forward", "backward")
    rows = [
        (
            "  " * row.path.count("/") + row.path.rpartition("/")[2],
            row.outputs or UNKNOWN,
            UNKNOWN if row.output_bytes is None else in_words(row.output_bytes),
            f"{row.parameters:,}",
            *(UNKNOWN if _is_unseen(row) else f"{scaled(flops)}FLOP" for flops in (row.forward, row.backward)),
        )
        for row in to_depth(report.layers, depth)
    ]
    least = "at least " if report.flops_are_least else ""
    total = ("step", "", "", f"{report.parameters:,}", f"{least}{scaled(report.flops)}FLOP", "")
    return text_table([head, *rows, total], right=(2, 3, 4, 5))


def _is_unseen(row: Layer) -> bool:
    """Tell whether a layer has parameters, and no scope in which its operations were seen."""
    return not row.outputs and not (row.forward or row.backward)


def config_table(values: Sequence[Value]) -> str:
    """Align every config value with its origin, and with the reason if nobody reads it."""
    rows = [("key", "value", "origin")]
    for each in values:
        shown = str(each.value)
        note = f" (not read: {each.unread})" if each.unread else ""
        rows.append((each.key, shown if len(shown) <= 48 else f"{shown[:47]}…", f"{each.origin}{note}"))
    return text_table(rows)


def _lines(facts: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name + ':':<12}{value}" for name, value in facts]


def _facts(report: Report) -> list[tuple[str, str]]:
    time = f"{UNKNOWN}; measure with `framework bench … --json > FILE`, and give it by --bench FILE"
    if report.seconds is not None:
        time = f"{clock(report.seconds)}, by the report of bench, without evaluations"
    return [
        ("FLOPs", f"{scaled(report.flops)}FLOP a step, {scaled(report.flops / report.examples)}FLOP an example"),
        ("checkpoint", in_words(report.checkpoint_bytes)),
        ("steps", f"{report.steps_per_epoch:,} an epoch, {report.total_steps:,} in all"),
        ("time", time),
        ("data", f"{report.data}; read in {clock(report.data_seconds)}, since their shapes are known only then"),
    ]


def _costs(report: Report) -> list[tuple[str, str]]:
    compiler = UNKNOWN if report.xla_flops is None else f"{scaled(report.xla_flops)}FLOP, loops once"
    memory = f"{UNKNOWN}, since nothing is compiled"
    if report.memory is not None:
        parts = ", ".join(f"{in_words(size)} {part}" for part, size in report.memory.items() if part != "in all")
        memory = f"{in_words(report.memory['in all'])} on each device, as the compiler expects: {parts}"
    facts = [("XLA counts", compiler), ("memory", memory)]
    if (largest := report.largest) is not None:
        need = "" if largest.bytes is None else f", whose step needs {in_words(largest.bytes)}"
        size = "none fits" if largest.batch_size is None else f"data.batch_size={largest.batch_size}{need}"
        facts.append(("largest", f"{size}; limited by {largest.limited_by}"))
    return facts


def _memory(program: costs.Compiled) -> dict[str, int]:
    return {
        "in all": program.bytes,
        "state and batch": program.arguments,
        "new state and metrics": program.results - program.shared,
        "temporaries": program.temporaries,
        "code": program.code,
    }


def _jaxpr(experiment: Experiment) -> str:
    import jax

    return str(jax.make_jaxpr(experiment.task.train_step)(experiment.shapes, experiment.batches.spec))
