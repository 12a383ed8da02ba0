"""The command line: verbs, exit codes, and refusals of one line that name the key and the nearest fix."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from framework.commands import verbs
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

VERBS = """
from framework.command import Command

def greet():
    return Command("greet", "greet the world", lambda words: print("hello", *words))

def disagree():
    return Command("disagree", "end with a code", lambda words: int(words[0]), group="odd")

def crash():
    return Command("crash", "fail", lambda words: {}[words[0]])

def hang_up(words):
    raise BrokenPipeError("the line is dead")

def phone():
    return Command("phone", "lose a connection", hang_up)

def rename():
    return Command("another", "a name of its own", print)

def nothing():
    return None

def train():
    return Command("train", "take over", print)
"""

EXPERIMENT = """# @package _global_
defaults:
  - override /model: wide
  - override /loss: squares
  - override /metrics: []
  - override /optimizer: descend
  - override /data: ones
  - override /callbacks: []
train: {steps: 1}
"""

GROUPS = {
    "framework.models": {"wide": "acme_m:wide", "broken": "acme_m:nothing"},
    "framework.losses": {"squares": "acme_m:squares"},
    "framework.optimizers": {"descend": "acme_m:descend"},
    "framework.data": {"ones": "acme_m:ones"},
    "framework.conf": {"acme": "acme_conf"},
    "framework.commands": {
        **{name: f"acme_v:{name}" for name in ("greet", "disagree", "crash", "phone", "rename", "nothing", "train")},
        "lost": "acme_v:lost",
    },
}


@pytest.fixture
def call(install, capsys, tmp_path, monkeypatch):
    """Call `main` in an empty folder, beside a distribution of small plugins; gives its exit code and output."""
    files = {
        "acme_m.py": ACME,
        "acme_v.py": VERBS,
        "acme_conf/__init__.py": "",
        "acme_conf/experiment/acme.yaml": EXPERIMENT,
    }
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


REFUSED = [  # words, the kind of error, who or what it names first, and what else it must say
    (["trian"], "config", "framework", "'trian'", "Did you mean 'train'"),
    (["help", "trian"], "config", "framework", "'trian'", "Did you mean 'train'"),
    (["help", "train", "resume"], "config", "help", "resume"),
    (["resume"], "config", "resume", "run folder"),
    (["resume", "seed=1"], "config", "resume", "run folder"),
    (["resume", "x", "--forse"], "config", "resume", "--forse", "Did you mean '--force'"),
    (["rename"], "plugin", "command 'rename' (acme 1.0)", "breaks its contract"),
    (["nothing"], "plugin", "command 'nothing' (acme 1.0)", "breaks its contract"),
    (["lost"], "plugin", "command 'lost' (acme 1.0, acme_v:lost)", "AttributeError"),
    (["phone"], "internal", "BrokenPipeError", "the line is dead"),
    (["crash", "x"], "plugin", "command 'crash' (acme 1.0, acme_v:crash)", "KeyError", "x"),
    (["train.stepz=3"], "config", "train.stepz", "train", "stepz", "Did you mean 'steps'"),
    (["sede=1"], "config", "sede", "Did you mean 'seed'"),
    (["+sede=1"], "config", "sede", "Did you mean 'seed'"),
    (["modle=wide"], "config", "modle", "Did you mean 'model'"),
    (["model=mlpp"], "config", "model=mlpp", "Did you mean 'mlp'"),
    (["model=wied"], "config", "model=wied", "Did you mean 'wide'"),
    (["model.name=wied"], "config", "model.name", "wied", "Did you mean 'wide'"),
    (["+model.hiden=3"], "config", "model.hiden", "model 'wide' (acme 1.0)", "Did you mean 'hidden'"),
    (["++model.hiden=3"], "config", "model.hiden", "model 'wide' (acme 1.0)", "Did you mean 'hidden'"),
    (["model.hiden=3"], "config", "model.hiden", "model 'wide' (acme 1.0)", "Did you mean 'hidden'"),
    (["model.hidden=many"], "config", "model.hidden", "found 'many' (str)"),
    (["model.hidden=3.5"], "config", "model.hidden", "found 3.5 (float)"),
    (["model.hidden=true"], "config", "model.hidden", "found True (bool)"),
    (["model._target_=os.system"], "config", "model._target_", "_target_"),
    (
        ["optimizer.step_sise=1"],
        "config",
        "optimizer.step_sise",
        "optimizer 'descend' (acme 1.0)",
        "Did you mean 'step_size'",
    ),
    (["experiment=acme"], "config", "experiment", "added with a plus: +experiment=acme"),
    (["++train.steps=abc"], "config", "train.steps", "found 'abc' (str)"),
    (["train.log_every=-1"], "config", "train.log_every", "found -1"),
    (["train.steps=0"], "config", "train.steps", "found 0"),
    (["seed=-1"], "config", "seed", "found -1"),
    (["train.steps=[1"], "config", "train.steps=[1"),
    (["model.hidden='${train.setps}'"], "config", "model.hidden", "train.setps"),
    (["metrics+=acuracy"], "config", "metrics.acuracy.name", "acuracy", "Did you mean 'accuracy'"),
    (["model.layers+=Relu"], "config", "model.layers", "found None"),
    (["~model"], "config", "model", "found None"),
    (["debug=nan"], "config", "debug=nan", "Did you mean 'nans'"),
    (["seed=1,2"], "config", "", "seed=1,2"),
    (["data.transform+=random_shfit"], "config", "data.transform", "found None"),
    (["data.fail=config"], "config", "data", "size is odd"),
    (["data.fail=data"], "data", "data", "x.npz is cut"),
    (["data.fail=value"], "plugin", "data", "ones", "ValueError"),
    (["model=broken"], "plugin", "model: model 'broken' (acme 1.0, acme_m:nothing)", "AttributeError"),
    (["model=mlp", "model.hidden=3"], "config", "model.hidden", "found 3 (int)"),
    (["--hlep"], "config", "train", "--hlep", "Did you mean '--help'"),
    (["--config-dir"], "config", "train", "--config-dir", "--help"),
    (["--config-dir", "nowhere"], "config", "config_dir", "nowhere"),
    (["--cfg", "jbo"], "config", "train", "jbo"),
    (["--cfg", "job", "-m"], "config", "train", "--multirun", "--cfg"),
    (["--resolve"], "config", "train", "--resolve", "--cfg"),
    (["=3"], "config", "=3", "expected KEY=VALUE"),
    (["plugins", "modles"], "config", "", "modles", "Did you mean 'models'"),
    (["plugins", "models", "wied"], "config", "plugins", "wied", "Did you mean 'wide'"),
    (["plugins", "models", "broken"], "plugin", "model 'broken' (acme 1.0, acme_m:nothing)", "cannot be imported"),
]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: " ".join(refused[0]))
def test_a_refusal_is_one_line_that_names_the_key_and_the_fix(call, tmp_path, refused):
    words, kind, named, *said = refused
    takes_overrides = "=" in words[0] and words != ["=3"]
    code, out, err = call(*(["+experiment=acme"] if takes_overrides and words != ["experiment=acme"] else []), *words)
    assert code == {"internal": 1, "config": 2, "plugin": 3, "data": 4}[kind]
    assert err.startswith(f"error[{kind}]: {named}")
    assert all(part in err for part in said)
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    "words", [["train.stepz=3"], ["framework:train", "--traceback", "seed=-1"], ["plugins", "modles"]]
)
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
    code, out, err = call("+experiment=acme", "run.dir=mine", "model=acme:wide")
    assert (code, out) == (0, ""), err
    assert (tmp_path / "here" / "mine" / "run.json").is_file()


OVERRIDES = ["+experiment=acme", "model.hidden=8", "seed=4"]


def test_every_run_of_a_sweep_says_how_it_ended(call, tmp_path):
    code, _, err = call("+experiment=acme", "-m", "seed=1,2", "callbacks=[progress]", "launcher=turn")
    assert code == 0
    assert (err.count(" done at step "), err.count("run folder: ")) == (2, 0)
    assert err.count("\ntotal ") == 1, "parameters of points that are alike are listed once"
    assert all("run folder: " in log.read_text() for log in tmp_path.rglob("run.log"))


def test_a_job_of_a_sweep_that_fails_is_named_and_the_others_run(call, tmp_path):
    code, _, err = call("+experiment=acme", "-m", "seed=1,2,x", "model.hidden=4", "launcher=turn")
    assert code == 2
    assert "job 3/3 (seed=x) failed: seed: expected int" in err
    assert err.count(" done at step ") == len(list(tmp_path.rglob("run.json"))) == 2


def test_the_parameters_are_listed_again_where_they_differ(call):
    code, _, err = call("+experiment=acme", "-m", "model.hidden=4,5", "callbacks=[progress]", "launcher=turn")
    assert (code, err.count("\ntotal ")) == (0, 2)


@pytest.mark.parametrize(
    "words",
    [
        ["--cfg", "job", *OVERRIDES],
        ["framework:train", "--cfg", "job", *OVERRIDES],
        [*OVERRIDES, "--cfg", "job"],
        [OVERRIDES[0], "--cfg=job", *OVERRIDES[1:]],
        [OVERRIDES[0], "-c", "job", OVERRIDES[1], OVERRIDES[2]],
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
    example, origin, about = call("plugins", "model", "wide")[1].split("\n\n")[:3]
    assert example == "framework +experiment=mnist model=wide model.hidden=3"
    assert (origin, about) == ("model 'wide', from acme 1.0 (acme_m:wide)", "A linear model.")


def test_a_third_partys_verb_runs_with_its_words_and_exit_code(call):
    assert call("greet", "you", "--loudly") == (0, "hello you --loudly\n", "")
    assert call("acme:greet", "you") == (0, "hello you\n", "")
    assert call("disagree", "8") == (8, "", "")
    assert call("disagree", "0") == (0, "", "")


def test_the_overview_lists_every_verb_with_its_owner_and_the_broken_ones(call):
    code, out, err = call("help")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "greet greet the world (acme 1.0)" in lines
    assert lines.index("odd:") < lines.index("disagree end with a code (acme 1.0)")
    assert any(line.startswith("BROKEN command 'lost' (acme 1.0, acme_v:lost) cannot be imported") for line in lines)
    assert any(line.startswith("experiments: acme, autoencoder, ") for line in lines)
    assert call("--help") == call("-h") == call("help")


OURS = sorted(plugin.name for plugin, _ in verbs.installed()[0] if plugin.distribution == "framework")


def test_the_overview_of_our_own_verbs_fits_one_screen(capsys):
    main(["help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert set(OURS) <= {line.split()[0] for line in lines if line.startswith("  ")}


@pytest.mark.parametrize("verb", OURS)
def test_every_verb_says_how_it_is_called_and_shows_an_example(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    shown = []
    for words in ([verb, "--help"], [verb, "-h"], ["help", verb], [verb, "x", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert not end.value.code
        shown.append(capsys.readouterr().out)
    assert len(set(shown)) == 1
    assert shown[0].startswith(f"usage: framework {verb} ")
    assert f"\nexample:\n  framework {verb} " in shown[0]
    assert max(map(len, shown[0].splitlines())) <= 84


def test_a_bare_call_shows_how_to_start_and_trains_nothing(call, tmp_path):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert "framework +experiment=mnist" in out
    assert not list((tmp_path / "here").iterdir())


def test_the_version_is_one_line_of_ours(call):
    python = ".".join(map(str, sys.version_info[:3]))
    assert call("--version") == (0, f"framework {version('framework')}, jax {version('jax')}, python {python}\n", "")


def test_a_sweeps_retry_says_what_it_does_beside_resume(capsys):
    shown = {}
    for action in ("resume", "retry"):
        with pytest.raises(SystemExit):
            main(["sweep", action, "--help"])
        shown[action] = capsys.readouterr().out
    assert "Failed points are begun once more" in " ".join(shown["retry"].split())
    assert "Failed points" not in shown["resume"]


@pytest.mark.parametrize("words", [["--help"], ["bench", "--help"], ["--cfg", "job"], ["plugins", "losses"], ["trian"]])
def test_a_reader_that_has_enough_ends_the_program_quietly(tmp_path, words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "framework", *words]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, text=True, check=False)
    os.close(writing)
    assert done.returncode in ((2,) if words == ["trian"] else (0, 141))
    assert done.stderr.count("\n") == (1 if words == ["trian"] else 0)


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
heavy |= {"hydra", "omegaconf", "yaml"} & set(sys.modules) if "=" not in "".join(sys.argv) else set()
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["--help"], 0, "experiments: autoencoder, ", ""),
        (["--version"], 0, "framework ", ""),
        ([], 0, "To start:", ""),
        (["trian"], 2, "", "error[config]: framework: no command is named 'trian'."),
        (["mnist"], 2, "", "error[config]: framework: 'mnist' is an experiment, and no command; train it by +experi"),
        (["train", "mnist"], 2, "", "error[config]: 'mnist' is an experiment, and no run folder; write +experiment="),
        (["--cfg", "job", "+experiment=mnist"], 0, "model:\n  name: cnn", ""),
        (["train.stepz=3"], 2, "", "error[config]: train.stepz: section 'train' has no option 'stepz'."),
        (["run.dir=held"], 5, "", "error[storage]: run.dir: held holds a run already"),
        (["run.dir=held/run.json/x"], 5, "", "error[storage]: run.dir: "),
        (["run.dir=/"], 5, "", "error[storage]: run.dir: / is the root of all folders"),
        (["run.root=/dev/null"], 5, "", "error[storage]: run.root: /dev/null is a file"),
    ],
)
def test_help_and_refusals_do_not_wait_for_jax(tmp_path, words, code, out, err):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "run.json").write_text("{}")
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
    assert done.stderr.startswith("error[config]: framework: no command is named 'trian'. Did you mean 'train'?")
