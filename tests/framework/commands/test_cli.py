"""The command line: verbs, exit codes, and refusals of one line that name the key and the nearest fix."""

from __future__ import annotations

import subprocess
import sys

import pytest

from framework.commands.cli import main

ACME = '''
from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from framework.api import Model
from framework.errors import ConfigError, DataError


def wide(hidden: int = 3, rate: float = 0.5) -> Model:
    """A linear model."""
    def init(key, in_shape):
        return (-1, hidden), jnp.zeros([in_shape[1], hidden]), ()
    def apply(params, state, inputs, *, key=None, train=False):
        return inputs @ params, state
    return Model(init, apply)


def squares():
    """Squared error."""
    return lambda outputs, batch: ((outputs - batch["targets"][:, None]) ** 2).sum(-1)


def descend(step_size: float = 0.1):
    """Gradient descent."""
    return optax.sgd(step_size)


def flat():
    """A schedule."""
    return lambda step: 1.0


class Ones:
    """Four examples of ones."""

    spec = {"inputs": jax.ShapeDtypeStruct((4, 2), np.float32), "targets": jax.ShapeDtypeStruct((4,), np.float32)}
    steps_per_epoch, splits, source = 1, ("test",), "ones"

    def train(self, seed, start=0):
        while True:
            yield {"inputs": np.ones([4, 2], np.float32), "targets": np.ones([4], np.float32)}

    def eval(self, split):
        yield next(self.train(0)) | {"weights": np.ones([4], np.float32)}


def ones(fail: str = ""):
    """A pipeline that may fail."""
    errors = {
        "config": ConfigError("size is odd."), "data": DataError("x.npz is cut."), "value": ValueError("two\\nlines"),
        "interrupt": KeyboardInterrupt(),
    }
    if fail:
        raise errors[fail]
    return Ones()
'''

EXPERIMENT = """# @package _global_
defaults:
  - override /model: wide
  - override /loss: squares
  - override /metrics: []
  - override /optimizer: descend
  - override /schedule: flat
  - override /data: ones
  - override /callbacks: []
train: {steps: 1}
"""

GROUPS = {
    "framework.models": {"wide": "acme_m:wide", "broken": "acme_m:nothing"},
    "framework.losses": {"squares": "acme_m:squares"},
    "framework.optimizers": {"descend": "acme_m:descend"},
    "framework.schedules": {"flat": "acme_m:flat"},
    "framework.data": {"ones": "acme_m:ones"},
    "framework.conf": {"acme": "acme_conf"},
}


@pytest.fixture
def call(install, capsys, tmp_path, monkeypatch):
    """Call `main` in an empty folder, beside a distribution of small plugins; gives its exit code and output."""
    files = {"acme_m.py": ACME, "acme_conf/__init__.py": "", "acme_conf/experiment/acme.yaml": EXPERIMENT}
    install("acme", GROUPS, files)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*words):
        code = 0
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


REFUSED = [
    (["trian"], 2, "config", "no such command 'trian'. Did you mean 'train'? Known: "),
    (["train.stepz=3"], 2, "config", "train.stepz: section 'train' has no option 'stepz'. Did you mean 'steps'?"),
    (["sede=1"], 2, "config", "sede: no such section. Did you mean 'seed'? Known: "),
    (["+sede=1"], 2, "config", "sede: no such section. Did you mean 'seed'? Known: "),
    (["modle=wide"], 2, "config", "modle: no such section. Did you mean 'model'?"),
    (["model=mlpp"], 2, "config", "model=mlpp: no such config. Did you mean 'mlp'? Known: "),
    (["model=wied"], 2, "config", "model=wied: no such config. Did you mean 'wide'? Known: "),
    (["model.name=wied"], 2, "config", "model.name: no model is named 'wied'. Did you mean 'wide'? Known: "),
    (["+model.hiden=3"], 2, "config", "model.hiden: model 'wide' (acme 1.0) has no option 'hiden'. Did you mean 'hidd"),
    (["++model.hiden=3"], 2, "config", "model.hiden: model 'wide' (acme 1.0) has no option 'hiden'. Did you mean 'hi"),
    (["model.hiden=3"], 2, "config", "model.hiden: model 'wide' (acme 1.0) has no option 'hiden'. Did you mean 'hidd"),
    (["model.hidden=many"], 2, "config", "model.hidden: expected int, found 'many' (str)."),
    (["model.hidden=3.5"], 2, "config", "model.hidden: expected int, found 3.5 (float)."),
    (["model.hidden=true"], 2, "config", "model.hidden: expected int, found True (bool)."),
    (
        ["model._target_=os.system"],
        2,
        "config",
        "model._target_: a config names registered components; there is no '_target_'.",
    ),
    (["optimizer.step_sise=1"], 2, "config", "optimizer.step_sise: optimizer 'descend' (acme 1.0) has no option"),
    (["experiment=acme"], 2, "config", "Could not override 'experiment'."),
    (["++train.steps=abc"], 2, "config", "train.steps: expected int or null, found 'abc' (str)."),
    (["train.log_every=-1"], 2, "config", "train.log_every: expected at least 0, found -1."),
    (["train.steps=0"], 2, "config", "train.steps: expected at least 1, found 0."),
    (["seed=-1"], 2, "config", "seed: expected 0 to 4294967295, found -1."),
    (["train.steps=[1"], 2, "config", "train.steps=[1: "),
    (["model.hidden='${train.setps}'"], 2, "config", "model.hidden: nothing sets 'train.setps', which it takes"),
    (["metrics+=acuracy"], 2, "config", "metrics.acuracy.name: no metric is named 'acuracy'. Did you mean 'accuracy'"),
    (["model.layers+=Relu"], 2, "config", "model.layers: expected a list or a mapping to extend, found None;"),
    (["~model"], 2, "config", "model: expected a mapping, found None; choose one with model=NAME."),
    (["debug=nan"], 2, "config", "debug=nan: no such config. Did you mean 'nans'? Known: "),
    (["seed=1,2"], 2, "config", "Ambiguous value for argument 'seed=1,2'"),
    (["data.transform+=random_shfit"], 2, "config", "data.transform: expected a list or a mapping to extend, found N"),
    (["data.fail=config"], 2, "config", "data: size is odd."),
    (["data.fail=data"], 4, "data", "data: x.npz is cut."),
    (["data.fail=value"], 3, "plugin", "data: data pipeline 'ones' (acme 1.0) cannot be built: ValueError: two lines"),
    (["model=broken"], 3, "plugin", "model 'broken' (acme 1.0, acme_m:nothing) cannot be imported: AttributeError: "),
    (["model=mlp", "model.hidden=3"], 2, "config", "model.hidden: expected tuple[int, ...], found 3 (int)."),
    (["--hlep"], 2, "config", "unrecognized arguments: --hlep; `--help` shows how to call."),
    (["--config-dir"], 2, "config", "argument --config-dir/-cd: expected one argument;"),
    (["--config-dir", "nowhere"], 2, "config", "Additional config directory '"),
    (["--cfg", "jbo"], 2, "config", "argument --cfg/-c: invalid choice: 'jbo'"),
    (["--cfg", "job", "-m"], 2, "config", "Only one of --run, --multirun, --cfg"),
    (["=3"], 2, "config", "Config group override must be a string or a list."),
    (["plugins", "modles"], 2, "config", "no plugin kind is named 'modles'. Did you mean 'models'? Known: "),
    (["plugins", "models", "wied"], 2, "config", "plugins: no model is named 'wied'. Did you mean 'wide'? Known: "),
    (["plugins", "models", "broken"], 3, "plugin", "model 'broken' (acme 1.0, acme_m:nothing) cannot be imported: "),
]


@pytest.mark.parametrize(("words", "code", "kind", "text"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_refusal_is_one_line_that_names_the_key_and_the_fix(call, tmp_path, words, code, kind, text):
    takes_overrides = "=" in words[-1] and words != ["=3"]
    found, out, err = call(*(["+experiment=acme"] if takes_overrides and words != ["experiment=acme"] else []), *words)
    assert found == code
    assert err.startswith(f"error[{kind}]: {text}")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("words", [["train.stepz=3"], ["train", "--traceback", "seed=-1"], ["plugins", "modles"]])
def test_a_traceback_comes_only_when_it_is_asked_for(call, words):
    code, _, err = call(*words, "--traceback")
    assert code == 2
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].startswith("error[config]: ")
    assert "Traceback" not in call(*[word for word in words if word != "--traceback"])[2]


def test_an_interrupt_is_neither_an_error_nor_a_traceback(call):
    code, _, err = call("+experiment=acme", "data.fail=interrupt")
    assert (code, err) == (130, "interrupted\n")


def test_a_folder_that_holds_a_run_is_refused(call, tmp_path):
    (tmp_path / "here" / "held").mkdir()
    (tmp_path / "here" / "held" / "run.json").write_text("{}")
    code, _, err = call("+experiment=acme", "run.dir=held")
    assert code == 5
    assert err.startswith("error[storage]: run.dir: held holds a run already")
    assert err.count("\n") == 1


def test_a_run_of_a_third_partys_own_experiment_is_done(call, tmp_path):
    code, out, _ = call("+experiment=acme", "run.dir=mine", "model=acme:wide")
    assert (code, out) == (0, "")
    assert (tmp_path / "here" / "mine" / "run.json").is_file()


OVERRIDES = ["+experiment=acme", "model.hidden=8", "seed=4"]


def test_every_run_of_a_sweep_says_how_it_ended(call, tmp_path):
    code, _, err = call("+experiment=acme", "-m", "seed=1,2")
    assert code == 0
    assert err.count("run folder: ") == 2
    assert all(log.read_text() for log in tmp_path.rglob("run.log"))


@pytest.mark.parametrize(
    "words",
    [
        ["--cfg", "job", *OVERRIDES],
        ["train", "--cfg", "job", *OVERRIDES],
        [*OVERRIDES, "--cfg", "job"],
        [OVERRIDES[0], "--cfg=job", *OVERRIDES[1:]],
        [OVERRIDES[0], "-c", "job", OVERRIDES[1], "--resolve", OVERRIDES[2]],
    ],
)
def test_the_composed_config_is_shown_wherever_the_flags_stand(call, words):
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    assert "model:\n  name: wide\n  hidden: 8\n" in out
    assert "seed: 4\n" in out
    assert "hydra" not in out


def test_the_plugins_are_listed_also_where_one_is_broken(call):
    code, out, err = call("plugins")
    assert (code, err) == (0, "")
    (row,) = [line for line in out.splitlines() if line.split()[:1] == ["broken"]]
    assert "BROKEN" in row
    assert "has no attribute 'nothing'" in row
    assert call("plugins", "model", "wide")[1].startswith("model 'wide', from acme 1.0 (acme_m:wide)\n\nA linear ")


def test_the_words_and_the_environment_are_left_as_they_were(call, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    before = list(sys.argv)
    call("train.stepz=3")
    assert sys.argv == before
    assert __import__("os").environ["HYDRA_FULL_ERROR"] == "0"


WITHOUT_JAX = """
import sys
from framework.commands.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
else:
    code = 0
heavy = {"jax", "numpy", "optax", "rich", "tensorboard"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["--help"], 0, "model: cnn, logistic_regression, mlp", ""),
        (["--cfg", "job", "+experiment=mnist"], 0, "model:\n  name: cnn", ""),
        (["train.stepz=3"], 2, "", "error[config]: train.stepz: section 'train' has no option 'stepz'."),
    ],
)
def test_help_and_refusals_do_not_wait_for_jax(tmp_path, words, code, out, err):
    command = [sys.executable, "-c", WITHOUT_JAX, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code, done.stderr
    assert out in done.stdout
    assert done.stderr.startswith(err)
    assert bool(done.stderr) == bool(err)


def test_the_module_can_be_run(tmp_path):
    command = [sys.executable, "-m", "framework", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[config]: no such command 'trian'. Did you mean 'train'?")
