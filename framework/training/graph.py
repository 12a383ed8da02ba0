"""The graph of a model, from its jaxpr: operations in the scopes of their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import jax
from jax.extend.core import Literal

from framework.api import Node, PyTree, View, layer_outputs
from framework.errors import PLUGIN_FAULTS
from framework.experiment import Experiment
from framework.tasks.ema import trained_params
from framework.trees import leaves_by_path


def graph(experiment: Experiment) -> Callable[[], tuple[Node, ...]]:
    """Make a function that traces what the trained model computes, for a batch of the data; of members, the first."""

    def traced() -> tuple[Node, ...]:
        shapes, predict = experiment.shapes, experiment.task.predict
        if predict is None:
            return ()
        view = View(trained_params(shapes), shapes.model_state, shapes.task_state)
        if experiment.members is not None:
            view = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), view)
        with suppress(*PLUGIN_FAULTS):  # no picture is worth the end of a run
            closed: list[Any] = []
            # Where outputs of layers are collected, no layer runs in a loop, which would be one operation.
            layer_outputs(lambda: closed.append(jax.make_jaxpr(predict)(view, experiment.inputs)))
            return nodes_of(closed[0], _names(view, experiment.inputs))
        return ()

    return traced


def nodes_of(closed: Any, names: Iterable[str]) -> tuple[Node, ...]:
    """Return the operations of a jaxpr, in order, each named "<layer>/<operation>".

    Calls of functions are written out. Loops of which each turn is another program, and branches, are one operation.

    Args:
      closed: a `jax.extend.core.ClosedJaxpr`.
      names: of its inputs.
    """
    nodes: dict[str, Node] = {}

    def add(name: str, op: str, inputs: Iterable[str], aval: Any, equation: Any = None) -> str:
        count, unique = 0, name
        while unique in nodes:
            count += 1
            unique = f"{name}_{count}"
        shape = tuple(aval.shape) if hasattr(aval, "shape") else ()
        dtype = str(getattr(aval, "dtype", ""))
        nodes[unique] = Node(unique, op, tuple(dict.fromkeys(inputs)), shape, dtype, equation)
        return unique

    def walk(jaxpr: Any, given: Iterable[str], scope: str) -> list[str]:
        known: dict[Any, str] = dict(zip(jaxpr.invars, given, strict=True))

        def name_of(variable: Any) -> str:
            return "" if isinstance(variable, Literal) else known.get(variable, "")

        for equation in jaxpr.eqns:
            inputs = [name_of(each) for each in equation.invars]
            place = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
            inner = _inlined(equation)
            if inner is not None:
                found = walk(inner, inputs, place)
            else:
                name = "/".join(filter(None, (place, equation.primitive.name)))
                aval = equation.outvars[0].aval if equation.outvars else None
                own = add(name, equation.primitive.name, filter(None, inputs), aval, equation)
                found = [own] * len(equation.outvars)
            known.update(zip(equation.outvars, found, strict=True))
        return [name_of(each) for each in jaxpr.outvars]

    jaxpr = closed.jaxpr
    given = [add(name, "Input", (), each.aval) for name, each in zip(names, jaxpr.invars, strict=True)]
    ends = walk(jaxpr, given, "")
    for name, each in zip(ends, jaxpr.outvars, strict=True):
        add("outputs", "Output", filter(None, [name]), each.aval)
    used = {name for node in nodes.values() for name in node.inputs}
    return tuple(node for node in nodes.values() if node.op != "Input" or node.name in used)


def _inlined(equation: Any) -> Any:
    """Return the one program that an operation calls with its own inputs and outputs, if it does so, else None."""
    parts = [getattr(value, "jaxpr", value) for value in equation.params.values()]
    programs = [part for part in parts if hasattr(part, "eqns")]
    if len(programs) != 1:
        return None
    (program,) = programs
    fits = len(program.invars) == len(equation.invars) and len(program.outvars) == len(equation.outvars)
    return program if fits else None


def _names(view: View, inputs: PyTree) -> list[str]:
    """Name the inputs of a trained model: parameters as in the parameter table, so that they stand in their layers."""
    parts: Mapping[str, PyTree] = {
        "": view.params,
        "state": view.model_state,
        "task": view.task_state,
        "inputs": inputs,
    }
    found = []
    for part, tree in parts.items():
        paths = leaves_by_path(tree) if jax.tree.leaves(tree) else {}
        found += ["/".join(filter(None, (part, path))) for path in paths]
    return found
