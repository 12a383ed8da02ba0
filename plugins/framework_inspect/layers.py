"""Layers of a model, read from the traces of its forward pass and of its train step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from framework.contracts.components import Parameter, View
from framework.experiment import Experiment
from framework.trees import shapes_text
from framework_inspect.operations import Operation, Trace, flops_by_path, outputs_by_path, traced

LONGEST = 40
"""Rows of a table that is not told how deep to go."""

Path = tuple[str, ...]


class Layer(NamedTuple):
    """One row of the table: a layer, or a stack with all that is in it.

    Attributes:
      path: names from the outermost stack inwards, joined by "/".
      outputs: dtypes and shapes of what it returns for a batch, in words, such as "8 × float32[16, 10]" of a layer that
        runs for one eighth of it at a time; "" where that is unknown.
      parameters: numbers that it learns.
      forward: floating-point operations of a step's forward pass.
      backward: those of its backward pass.
      output_bytes: size of its outputs; None where that is unknown.
    """

    path: str
    outputs: str
    parameters: int
    forward: float
    backward: float
    output_bytes: int | None


class Layers(NamedTuple):
    """All layers of a model, and the rest of the step.

    Attributes:
      rows: in the order in which they run; those that compute nothing, such as a Dropout of 0, have none.
      flops: of the whole step.
      parameters: of the whole model.
      has_open_loops: some loop of the step does not tell how often it runs, so that its operations count once.
      operations: those of the step.
    """

    rows: tuple[Layer, ...]
    flops: float
    parameters: int
    has_open_loops: bool
    operations: list[Operation]


def layers_of(experiment: Experiment) -> Layers:
    """Trace the step of an experiment, and read its layers from it; nothing is compiled.

    Layers are the scopes (`jax.named_scope`) that the operations of the model run in, as stacks open one for each.
    """
    step = traced(experiment.task.train_step, experiment.shapes, experiment.batches.spec)
    forward = flops_by_path(step.operations, is_backward=False)
    backward = flops_by_path(step.operations, is_backward=True)
    trained = step._replace(operations=[each for each in step.operations if not each.is_backward], outputs=())
    applied = _needed(_applied(experiment))
    outputs = outputs_by_path(trained) | outputs_by_path(applied)
    working = [each for each in trained.operations if each.flops]
    ordered = dict.fromkeys(scope for each in (*applied.operations, *working) for scope in _scopes(each.path))
    # What is taken out of a loop, as constants are, lacks the scope of its model.
    strays = [path for path in ordered if any((section, *path) in ordered for section in experiment.task.models)]
    ordered = {path: None for path in ordered if path not in strays}
    sizes = parameters_by_scope(experiment.parameters, list(ordered))
    rows = []
    for path in [*ordered, *(path for path in sizes if path not in ordered)]:
        made = _together(outputs.get(path, []))
        rows.append(
            Layer(
                "/".join(path),
                ", ".join(
                    f"{times} × {shapes_text(shape)}" if times > 1 else shapes_text(shape) for times, shape in made
                ),
                sizes.get(path, 0),
                forward.get(path, 0.0),
                backward.get(path, 0.0),
                sum(times * shape.size * shape.dtype.itemsize for times, shape in made) if made else None,
            )
        )
    flops = forward.get((), 0.0) + backward.get((), 0.0)
    count = sum(parameter.size for parameter in experiment.parameters)
    return Layers(tuple(rows), flops, count, step.has_open_loops, step.operations)


def parameters_by_scope(parameters: Sequence[Parameter], scopes: Sequence[Path]) -> dict[Path, int]:
    """Count the parameters of each scope; those of no scope are counted under the first part of their path.

    A model may keep the parameters of a stack below names of its own, such as "body"; these are passed over.
    """
    outermost = {scope[0] for scope in scopes}
    known = set(scopes)
    sizes: dict[Path, int] = {}
    for parameter in parameters:
        parts = _named(tuple(parameter.path.split("/")), known)
        start = next((i for i, part in enumerate(parts) if part in outermost), None)
        own = parts[:1] if start is None else parts[start:]
        for depth in range(1, len(own) + 1):
            if own[:depth] in known or start is None:
                sizes[own[:depth]] = sizes.get(own[:depth], 0) + parameter.size
    return sizes


def _named(parts: Path, scopes: set[Path]) -> Path:
    """Put scopes in the place of the numbers that a stock stack keeps its parameters by: ("1_Dense",) for ("1",)."""
    path: Path = ()
    for part in parts:
        is_number = part.isdigit() and (*path, part) not in scopes
        named = [each[-1] for each in scopes if each[:-1] == path and each[-1].startswith(f"{part}_")]
        path = (*path, named[0] if is_number and named else part)
    return path


def to_depth(rows: Sequence[Layer], depth: int | None) -> tuple[Layer, ...]:
    """Leave out rows of stacks within `depth` others; by default, as few as make a table of `LONGEST` rows."""
    levels = [row.path.count("/") + 1 for row in rows]
    if depth is None:
        fitting = [each for each in sorted(set(levels)) if sum(level <= each for level in levels) <= LONGEST]
        depth = max(fitting, default=1)
    return tuple(row for row, level in zip(rows, levels, strict=True) if level <= depth)


def _together(made: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Add up how often outputs of the same dtype and shape are made, in the order in which each is made first.

    Random keys are left out.
    """
    times: dict[str, tuple[int, Any]] = {}
    for count, shape in made:
        if not jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
            text = shapes_text(shape)
            times[text] = times.get(text, (0, shape))[0] + count, shape
    return list(times.values())


def _applied(experiment: Experiment) -> Trace:
    """Trace the trained model on a batch of the data; of members, that of one. Empty if the task predicts nothing."""
    predict, shapes = experiment.task.predict, experiment.shapes
    if predict is None:
        return Trace((), [], (), False)
    first = (lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)) if experiment.members else lambda leaf: leaf
    view = jax.tree.map(first, View(shapes.params, shapes.model_state, shapes.task_state))
    return traced(predict, view, experiment.inputs)


def _needed(trace: Trace) -> Trace:
    """Leave out operations that the results do not depend on, such as those of a layer's state."""
    wanted, kept = set(trace.outputs), []
    for operation in reversed(trace.operations):
        if wanted.intersection(operation.outputs) or not operation.outputs:
            wanted.update(operation.inputs)
            kept.append(operation)
    return trace._replace(operations=kept[::-1])


def _scopes(path: Path) -> list[Path]:
    return [path[:depth] for depth in range(1, len(path) + 1)]
