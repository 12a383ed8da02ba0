"""The graph of a model: its layers at the top, its parameters within them, and no edge that leads nowhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from framework import testing
from framework.config.compose import compose
from framework.experiment import build
from framework.registry.entry_points import discover
from framework.training.graph import graph, nodes_of

MODELS = {
    "mlp": ["model.dropout=0.5"],
    "serial": ["model.layers=[{Dense: 8}, BatchNorm, {Residual: {Dense: 8}}, {Remat: {Dense: 10}}]"],
}


@pytest.mark.parametrize("more", [[], ["ema=0.5"], ["strategy=vmapped", "strategy.members=2"]])
@pytest.mark.parametrize("model", MODELS)
def test_the_graph_of_a_model(model, more):
    tiny = [word for word in testing.TINY if not word.startswith("model")]
    words = [*tiny, f"model={model}", *MODELS[model], *more, *(["model.hidden=[8]"] if model == "mlp" else [])]
    experiment = build(compose(words), discover())
    nodes = graph(experiment)()
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    assert all(each in names[:place] for place, node in enumerate(nodes) for each in node.inputs)
    parameters = {each.path: each for each in experiment.parameters}
    assert set(parameters) <= set(names)
    weights = {node.name: node.shape for node in nodes if node.name in parameters}
    assert weights == {path: each.shape for path, each in parameters.items()}
    assert (nodes[-1].name, nodes[-1].op, nodes[-1].shape) == ("outputs", "Output", (16, 10))
    layers = {path.partition("/")[0] for path in parameters}
    assert layers <= {name.partition("/")[0] for name in names if "/" in name and name not in parameters}


def test_loops_and_branches_and_constants_are_nodes():
    def function(x, unused):
        x = jax.lax.fori_loop(0, 3, lambda _, x: x * 2, x)
        return jax.lax.cond(x.sum() > 0, lambda x: x + 1, lambda x: x, x), jnp.float32(1)

    nodes = nodes_of(jax.make_jaxpr(function)(jnp.ones(3), jnp.ones(2)), ["x", "unused"])
    assert {"scan", "cond"} & {node.op for node in nodes} and nodes[0].name == "x"
    assert "unused" not in {node.name for node in nodes}
    assert [node.name for node in nodes if node.op == "Output"] == ["outputs", "outputs_1"]
