"""`inspect`: counts against XLA's own, rows against the model, and the answers of the verb."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework import testing
from framework.config.compose import compose
from framework.errors import ConfigError
from framework.experiment import build
from framework.registry.entry_points import discover
from framework_inspect import costs, layers, report
from framework_inspect.flops import flops_of
from framework_inspect.operations import traced

TINY = [*testing.TINY, "train.steps=12"]
STACK = [*TINY, "data.shape=[8,8,3]", "model=serial"]
WIDE = "model.layers=[{Dense:128},BatchNorm,Tanh,{Dropout:0.5},{Dense:128},{serial:[{Dense:64},Relu]},{Dense:10}]"
BRANCHES = "[{Dense:64},{serial:[{Dense:32},Gelu,{Dense:64}]}]"
FANNED = f"model.layers=[Flatten,{{FanOut:2}},{{parallel:{{layers:{BRANCHES}}}}},FanInSum]"
STOCK = "model.layers=[{GeneralConv:[[NHWC,HWIO,NHWC],32,[5,5],[2,2],SAME]},BatchNorm,Relu,Flatten,{Dense:10}]"
GPT = ["data=text", "model=transformer", "model.layers=2", "data.block=32", "model.dropout=0.1", "train.steps=1"]


@pytest.mark.parametrize(
    "words",
    [
        [*TINY, "data.shape=[64]", "data.batch_size=64", "model.hidden=[128,64]"],
        [*TINY, "data.shape=[64]", "data.batch_size=64", "model=serial", "~model.hidden", WIDE, "optimizer=sgd"],
        [*STACK, "~model.hidden", "data.batch_size=64", FANNED],
        [*STACK, "~model.hidden", "data.batch_size=64", STOCK, "data.shape=[8,8,16]"],
        [*GPT, "data.batch_size=4"],
        [*GPT, "data.batch_size=4", "train.accumulate=1", "precision=bfloat16", "ema=0.9", "nan_policy=skip"],
    ],
    ids=["mlp", "wide", "fanned", "stock convolution", "transformer", "transformer of all wrappers"],
)
def test_operations_and_parameters_are_those_of_the_compiled_step(words):
    experiment = build(compose(words), discover())
    found, program = layers.layers_of(experiment), costs.compiled(costs.lowered(experiment))
    assert not found.has_open_loops
    assert found.flops == pytest.approx(program.flops, rel=0.05)
    made = experiment.init(np.uint32(0)).params
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(made))


def convolved(strides=(1, 1), padding="SAME", lhs=(1, 1), rhs=(1, 1), groups=1):
    def function(inputs, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, lhs, rhs, numbers, groups)

    return function, (2, 9, 7, 4), (3, 2, 4 // groups, 8)


def reduced(name, **options):
    return lambda x: getattr(jnp, name)(x, **options), (6, 5, 4)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (f, shapes)
        for f, *shapes in [
            convolved(),
            convolved((2, 3), "VALID"),
            convolved((2, 2), ((1, 0), (3, 2))),
            convolved(lhs=(2, 2), padding=((2, 1), (1, 1))),
            convolved(rhs=(3, 2)),
            convolved(groups=4),
            (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (3, 4, 5), (3, 5, 6)),
            (lambda a, b: a @ b, (4,), (4, 7)),
            (lambda a: jnp.maximum(a * a + 1, 0.5), (7, 3)),
            reduced("sum", axis=0),
            reduced("max", axis=(1, 2)),
            (lambda x: jax.lax.scan(lambda c, row: (c + row, c * row), x[0], x)[0], (1, 8)),
        ]
    ],
)
def test_each_primitive_counts_as_in_xla(function, shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    counted = jax.jit(function).lower(*given).cost_analysis()["flops"]
    loops = 10 * (len(shapes) == 1 and shapes[0] == (1, 8))  # XLA counts the loop's own counter too
    assert sum(each.flops for each in traced(function, *given).operations) == pytest.approx(counted, abs=loops)


def test_moving_data_costs_nothing_and_a_loop_counts_its_rounds():
    def step(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0].T[::-1]

    trace = traced(step, jax.ShapeDtypeStruct((8, 8), jnp.float32))
    assert sum(each.flops for each in trace.operations) == 5 * 2 * 8**3
    assert not trace.has_open_loops
    assert traced(lambda x: jax.lax.while_loop(lambda c: c < 3, lambda c: c + 1, x), 1.0).has_open_loops
    assert all(flops_of(each) == 0 for each in jax.make_jaxpr(lambda x: x[None].T)(jnp.ones(3)).eqns)


def rows_of(words):
    return {row.path: row for row in layers.layers_of(build(compose(words), discover())).rows}


def test_a_row_has_the_outputs_parameters_and_operations_of_its_layer():
    rows = rows_of([*STACK, "~model.hidden", "data.batch_size=6", STOCK])
    assert list(rows) == ["0_GeneralConv", "1_BatchNorm", "2_Relu", "3_Flatten", "4_Dense"]
    assert [row.outputs for row in rows.values()] == [
        "float32[6, 4, 4, 32]",
        "float32[6, 4, 4, 32]",
        "float32[6, 4, 4, 32]",
        "float32[6, 512]",
        "float32[6, 10]",
    ]
    assert [row.parameters for row in rows.values()] == [5 * 5 * 3 * 32 + 32, 64, 0, 0, 5130]
    assert rows["4_Dense"].forward == 2 * 6 * 512 * 10 + 60  # a product, and a bias for each output
    assert rows["4_Dense"].backward == pytest.approx(2 * rows["4_Dense"].forward, rel=0.01)
    assert rows["4_Dense"].output_bytes == 240


def test_rows_of_stacks_hold_those_of_their_layers():
    rows = rows_of([*STACK, "~model.hidden", FANNED])
    assert [path for path in rows if path.startswith("2_")] == [
        "2_parallel",
        "2_parallel/0_Dense",
        "2_parallel/1_serial",
        "2_parallel/1_serial/0_Dense",
        "2_parallel/1_serial/1_Gelu",
        "2_parallel/1_serial/2_Dense",
    ]
    inner = rows["2_parallel/0_Dense"], rows["2_parallel/1_serial"]
    assert rows["2_parallel"].parameters == sum(row.parameters for row in inner)
    assert (rows["2_parallel"].outputs, *(row.outputs for row in inner)) == (
        "2 × float32[16, 64]",
        *2 * ["float32[16, 64]"],
    )
    for direction in ("forward", "backward"):
        assert getattr(rows["2_parallel"], direction) >= sum(getattr(row, direction) for row in inner)


STOCK_STACK = """
from jax.example_libraries import stax


def fanned():
    branches = stax.parallel(stax.Dense(8), stax.serial(stax.Dense(8), stax.Relu))
    return stax.serial(stax.Flatten, stax.FanOut(2), branches, stax.FanInSum, stax.Dense(10))
"""


def test_layers_of_a_stock_stack_have_their_parameters(install):
    install("acme", {"framework.models": {"fanned": "acme_stock:fanned"}}, {"acme_stock.py": STOCK_STACK})
    rows = rows_of([*TINY, "~model.hidden", "model=fanned", "data.shape=[6]", "data.batch_size=16"])
    told = {path: (row.outputs, row.parameters) for path, row in rows.items() if row.parameters}
    assert told == {
        "2_parallel": ("2 × float32[16, 8]", 112),
        "2_parallel/0_Dense": ("float32[16, 8]", 56),
        "2_parallel/1_serial": ("float32[16, 8]", 56),
        "2_parallel/1_serial/0_Dense": ("float32[16, 8]", 56),
        "4_Dense": ("float32[16, 10]", 90),
    }
    assert rows["2_parallel/1_serial/1_Relu"].forward > 0


def test_models_of_a_task_have_their_own_rows_and_those_alone():
    rows = rows_of(["task=gan", "data=digits", "data.normalize=false", "data.batch_size=16", "train.steps=2"])
    assert {path.partition("/")[0] for path in rows} == {"generator", "discriminator"}
    assert "key<" not in "".join(row.outputs for row in rows.values())


def test_every_layer_of_the_denoiser_has_a_row():
    rows = rows_of(["task=diffusion", "data=digits", "data.normalize=false", "model.blocks=2", "train.steps=2"])
    assert {"into", "step", "blocks/0/into", "blocks/1/out", "out"} <= set(rows)
    assert sum(row.parameters for path, row in rows.items() if "/" not in path) == sum(
        row.parameters for path, row in rows.items() if path.count("/") == 2 or path in ("into", "step", "out")
    )
    assert all(row.outputs and row.forward > 0 for row in rows.values())


def test_layers_of_a_shared_program_and_of_names_of_their_own():
    rows = rows_of([*GPT, "data.batch_size=4"])
    first, second = rows["2_block_0"], rows["3_block_1"]
    assert first[1:] == second[1:]
    assert first.outputs == "float32[4, 32, 128]"
    assert rows["embedding"].parameters == 128 * 128
    assert rows["0_positions"].parameters == 32 * 128


@pytest.mark.parametrize(
    ("words", "devices", "is_known"),
    [
        (["strategy=jit"], 1, True),
        (["strategy=pmap"], 2, True),
        (["strategy=sharded"], 2, True),
        (["strategy=vmapped"], 1, True),
        (["strategy=vmapped", "strategy.devices=2"], 2, True),
        (["strategy=eager"], 1, False),
    ],
)
def test_memory_is_known_under_every_strategy_that_compiles(words, devices, is_known):
    traced: list[report.Report] = []
    found = report.inspect(compose([*TINY, *words]), traced=traced.append)
    assert f" on {devices} of 2 × cpu" in found.device
    assert traced == [found._replace(memory=None, xla_flops=None)]
    assert (found.memory is not None) == is_known
    assert ("unknown, since nothing is compiled" in report.text(found)) == (not is_known)
    if found.memory is not None:
        assert found.memory["in all"] == sum(size for part, size in found.memory.items() if part != "in all")
        assert found.memory["state and batch"] >= 4 * found.parameters
    assert found.total_steps == 12
    assert found.checkpoint_bytes > 3 * 4 * found.parameters


@pytest.mark.parametrize("words", [["model=mlp"], ["~model.hidden", FANNED, "data.shape=[8,8,3]", "model=serial"]])
def test_memory_is_that_of_the_program_that_trains(words):
    step = costs.lowered(build(compose([*TINY, *words]), discover()))
    tuned = step.compile().memory_analysis()
    assert costs.compiled(step).temporaries == tuned.temp_size_in_bytes > 0


def test_the_verb_prints_and_writes_and_leaves_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench = {"chosen": "chunks", "rows": [{"mode": "single", "ms": 50.0}, {"mode": "chunks", "ms": 10.0}]}
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    words = [*TINY, "nan_policy=ignore", "train.skips_in_row=3", "callbacks=[]", "--bench", "bench.json"]
    shown = testing.command("inspect", *words, "--graph", "stack.svg", "--memory", "1GiB")
    assert shown.code == 0, shown.err
    for text in (
        "Dense",
        "float32[16, 8]",
        "not read:   train.skips_in_row (command line): only nan_policy=skip undoes updates",
        "time:       0.12 s, by the report of bench",
        "largest:    data.batch_size=64",
        "limited by training examples",
    ):
        assert text in shown.out
    found = json.loads(testing.command("inspect", *words, "--quick", "--json").out)
    origins = {value["key"]: value["origin"] for value in found["config"]}
    assert origins["train.skips_in_row"] == "command line"
    assert re.search(r"config\.yaml:\d+$", origins["train.log_every"])
    assert origins["optimizer.eps"] == "default of optimizer 'adam'"
    assert found["parameters"] == 6 * 8 + 8 + 8 * 10 + 10
    drawn = ElementTree.parse(tmp_path / "stack.svg").getroot()
    boxes = [each for each in drawn.iter() if each.get("class") == "layer"]
    assert len(boxes) == len(found["layers"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "stack.svg"]


def test_programs_are_printed_on_demand():
    assert "dot_general" in testing.command("inspect", *TINY, "--jaxpr", "--quick").out
    assert "HloModule" in testing.command("inspect", *TINY, "--hlo").out
    table = testing.command("inspect", *TINY, "--config", "--quick").out
    assert "memory:     unknown, since nothing is compiled" in table
    assert "optimizer.learning_rate" in table


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["model.layers=[Flatten,{Dense:4},{Conv:[8,[3,3]]}]"], "layer 2_Conv cannot take inputs of shape (-1, 4)"),
        (["model.layers=[Flatten,{Embedding:[10,4]}]"], "layer 1_Embedding cannot take inputs"),
        (["model.layers=[Flatten]", "--bench", "nowhere.json"], "--bench: nowhere.json is no report of"),
        (["model.layers=[Flatten,{Dense:10}]", "--depth", "0"], "--depth: expected a number of levels"),
    ],
)
def test_mistakes_are_refused_in_one_line(words, text):
    shown = testing.command("inspect", *STACK, "~model.hidden", *words)
    assert shown.code == 2
    assert text in shown.err
    assert shown.err.count("\n") == 1


def test_nothing_fits_into_a_small_device():
    found = report.inspect(compose(TINY), report.Wanted(budget=1024))
    assert found.largest == costs.Largest(None, None, "memory")
    assert "none fits; limited by memory" in report.text(found)


def test_a_report_of_another_kind_is_refused(tmp_path):
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"odd\.json is no report of `framework bench --json`"):
        costs.step_seconds(str(tmp_path / "odd.json"))
