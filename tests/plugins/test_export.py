"""A trained model outside of its run: rebuilt bit for bit from its recipe, and as a program that needs jax alone."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import framework
from framework import testing
from framework.api import View
from framework.errors import StorageError
from framework.trained.exported import digest
from framework_export.onnx import FILE, NEEDED

pytest.importorskip("flatbuffers")

QUICK = ["train.steps=2", "train.eval_every=2", "callbacks=[checkpoint]"]
HEADS = ["model.layers=[{branches: {layers: {a: [{Dense: 4}], b: [{Dense: 3}]}}}, Concatenate, Relu, "]
HEADS[0] += "{heads: {layers: {digit: [{Dense: 3}], angle: [{Dense: 1}]}}}]"
LAYERS = "model.layers=[{Conv: [4, [3, 3]]}, BatchNorm, Relu, Flatten, {Dense: 10}]"


def convolutions(folder):
    return ["data=digits", "data.size=8", "data.eval_batch_size=50", "model=serial", LAYERS]


def characters(folder):
    (folder / "text.txt").write_text("abcd" * 300)
    words = ["+experiment=char_gpt", f"data.path={folder}/text.txt", "data.block=8", "data.batch_size=8"]
    return [*words, "model.layers=1", "model.width=8", "model.heads=1"]


def several(folder):
    draw = np.random.default_rng(0)
    arrays = {"x": draw.normal(size=(40, 5)), "y": draw.normal(size=(40, 2)), "angle": draw.normal(size=(40, 1))}
    np.savez(folder / "data.npz", **arrays, digit=draw.integers(0, 3, 40))
    loss = "loss.losses={digit: {name: softmax_cross_entropy, on_head: digit, on_target: digit}, "
    loss += "angle: {name: squared_error, on_head: angle, on_target: angle}}"
    fields = "data.fields={inputs: {a: x, b: y}, targets: {digit: digit, angle: angle}}"
    words = ["data=arrays", f"data.train={folder}/data.npz", fields, "data.batch_size=8", "model=serial", *HEADS]
    return [*words, "loss=weighted", loss, "metrics=[]"]


KINDS = {"convolutions": convolutions, "characters": characters, "several": several}


class Export:
    """A run and the folder that it was exported to."""

    def __init__(self, folder, words):
        self.run = framework.run([*words, *QUICK, f"run.root={folder}"])
        self.folder = folder / "exported"
        self.done = testing.command(
            "export", str(self.run.directory), "--to", str(self.folder), "program.gradients=true"
        )
        assert self.done.code == 0, self.done.err
        self.use = runpy.run_path(str(self.folder / "use.py"))


@pytest.fixture(scope="module", params=KINDS)
def export(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Export(folder, KINDS[request.param](folder))


def pairs(export):
    with np.load(export.folder / "pairs.npz") as file:
        found = {name: file[name] for name in file.files}
    return export.use["tree"](found, "inputs"), export.use["tree"](found, "outputs")


def test_the_arrays_and_the_recipe_build_the_model_again_bit_for_bit(export):
    model, loaded = framework.load(export.folder), export.run.model
    testing.assert_same_bits((model.params, model.model_state), (loaded.params, loaded.model_state))
    inputs, outputs = pairs(export)
    testing.assert_same_bits(jax.tree.leaves(jax.device_get(model(inputs))), jax.tree.leaves(outputs))
    assert (model.step, model.facts, model.inputs) == (2, loaded.facts, loaded.inputs)
    assert framework.load(f"{export.folder}@2").step == 2
    for other in ({"step": 1}, {"member": 1}):
        with pytest.raises(StorageError, match="is an exported model, of step 2 and of one member alone"):
            framework.load(export.folder, **other)


def test_the_program_computes_the_recorded_outputs_for_a_batch_of_any_size(export):
    assert export.use["largest_difference"](str(export.folder)) <= 1e-6
    program, (inputs, outputs) = export.use["load"](str(export.folder)), pairs(export)
    for size in (1, 3):
        found = program(jax.tree.map(lambda leaf, size=size: leaf[:size], inputs))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(outputs), strict=True):
            np.testing.assert_allclose(one, other[:size], rtol=1e-6, atol=1e-6)


def test_the_program_has_the_gradients_that_were_asked_for(export):
    program, (inputs, _) = export.use["load"](str(export.folder)), pairs(export)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(inputs)):
        return
    total = lambda model: lambda inputs: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(model(inputs)))  # noqa: E731
    model = export.run.model
    expected = jax.grad(total(lambda inputs: model.task.predict(View(model.params, model.model_state), inputs)))(inputs)
    found = jax.grad(total(program))(inputs)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_card_says_what_the_model_is_and_the_digests_of_its_files(export):
    card, record = (export.folder / "README.md").read_text(), testing.run_record(export.run)
    for path in export.folder.iterdir():
        assert path.name == "README.md" or f"| {path.name} | `{digest(path)}` |" in card
    for said in (record["data"], record["id"], f"jax {jax.__version__}", "of first order", "batch: any"):
        assert said in card
    assert f"| eval/loss | {export.run.metrics['eval/loss']:.6g} |" in card
    for package in ("framework", "jax"):
        assert json.loads((export.folder / "recipe.json").read_text())["versions"][package]


def test_a_member_has_its_own_metrics_and_a_program_of_one_size_is_checked_too(tmp_path):
    run = testing.train(tmp_path, *QUICK, "strategy=vmapped", "strategy.members=2")
    words = [str(run.directory), "--to", f"{tmp_path}/out", "--member", "1", "program.batch=3"]
    assert testing.command("export", *words).code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| eval/loss | {testing.series(run, 'eval/loss/1')[-1]:.6g} |" in card and "eval/loss/" not in card
    use = runpy.run_path(f"{tmp_path}/out/use.py")
    assert use["largest_difference"](f"{tmp_path}/out") <= 1e-6


ALONE = """
import runpy, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith(("framework", "optax", "hydra", "omegaconf", "tensorboard", "orbax")):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refused())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_program_runs_where_only_jax_is_installed(tmp_path_factory, tmp_path):
    export = Export(tmp_path_factory.mktemp("alone"), convolutions(None))
    words = [sys.executable, "-I", "-c", ALONE, str(export.folder / "use.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(done.stdout.rpartition(" ")[2]) <= 1e-6
    inputs, outputs = pairs(export)
    np.save(tmp_path / "in.npy", inputs)
    subprocess.run([*words, str(tmp_path / "in.npy"), str(tmp_path / "out.npy")], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), outputs, rtol=1e-6, atol=1e-6)
    for case, says in DAMAGES.items():
        folder = shutil.copytree(export.folder, tmp_path / case)
        says, damage = says
        damage(folder)
        with pytest.raises(StorageError, match=says) as caught:
            framework.load(folder)
        testing.message(caught)


def flipped(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def another(folder):
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["config"]["model"]["layers"][4] = {"Dense": 11}
    (folder / "recipe.json").write_text(json.dumps(recipe))


DAMAGES = {
    "a bit": ("the bytes of model.safetensors are not those that were exported", flipped),
    "no arrays": ("is not an exported model", lambda folder: (folder / "model.safetensors").unlink()),
    "half a recipe": ("is not an exported model", lambda folder: (folder / "recipe.json").write_text("{")),
    "another model": (r"expected 'params/4_Dense/W' float32\[144, 11\], found float32\[144, 10\]", another),
}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "new", "program.platforms=[gpu]"], "program.platforms: there is no platform 'gpu'"),
        (["--to", "new", "program.batches=3"], "has no option 'batches'. Did you mean 'batch'?"),
        (["--to", "new", "program.batch=0"], "program.batch"),
        (["--to", "new", "batch=3"], "expected program.OPTION=VALUE, found 'batch=3'"),
        (["--to", "new", "--format", "tflite"], "no exporter is named 'tflite'"),
        (["--to", "."], "exists, and holds something"),
        ([], "the following arguments are required: --to"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, monkeypatch, words, says):
    run = testing.train(tmp_path, *QUICK)
    monkeypatch.chdir(tmp_path)
    done = testing.command("export", str(run.directory), *words)
    assert done.code in (2, 5)
    assert says in done.err.splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_an_onnx_file_gives_the_recorded_outputs_for_a_batch_of_any_size(export, tmp_path):
    runtime, _ = (pytest.importorskip(name, reason="framework[onnx] is not installed") for name in NEEDED[::-1])
    done = testing.command("export", str(export.run.directory), "--to", f"{tmp_path}/onnx", "--format", "onnx")
    if "has no attribute 'ClosedJaxpr'" in done.err:
        pytest.skip("this jax2onnx does not know jax 0.12")
    assert done.code == 0, done.err
    parity = next(line for line in done.out.splitlines() if "parity" in line)
    assert parity.removeprefix("onnx: parity: ") in (tmp_path / "onnx" / "README.md").read_text()
    session = runtime.InferenceSession(str(tmp_path / "onnx" / FILE), providers=["CPUExecutionProvider"])
    given, expected = pairs(export)
    for count in (8, 3):
        leaves = [np.asarray(leaf)[:count] for leaf in jax.tree.leaves(given)]
        found = session.run(None, {each.name: leaf for each, leaf in zip(session.get_inputs(), leaves, strict=True)})
        for a, b in zip(found, jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b[:count], rtol=1e-4, atol=1e-5)


def test_an_operation_without_a_conversion_is_named_with_its_layer_before_the_conversion(tmp_path, install):
    for name in NEEDED:
        pytest.importorskip(name, reason="framework[onnx] is not installed")
    code = "import jax\ndef Odd():\n"
    code += "    apply = lambda params, x, **_: x + jax.random.gamma(jax.random.key(0), 2.0, x.shape)\n"
    code += "    return lambda key, shape: (shape, ()), apply\n"
    install("acme", {"framework.layers": {"Odd": "acme_odd:Odd"}}, {"acme_odd.py": code})
    words = ["data=digits", "model=serial", "model.layers=[Odd, Flatten, {Dense: 10}]"]
    run = framework.run([*words, *QUICK, f"run.root={tmp_path}"])
    done = testing.command("export", str(run.directory), "--to", f"{tmp_path}/onnx", "--format", "onnx")
    assert done.code == 2
    assert "onnx: jax2onnx has no conversion of 'random_gamma' of the layer 0_Odd" in done.err
    assert not (tmp_path / "onnx").exists()
    done = testing.command("export", str(run.directory), "--to", "x", "--format", "onnx", "onnx.tolerance=x")
    assert done.code == 2 and "onnx.tolerance" in done.err
