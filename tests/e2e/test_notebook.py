"""The notebook of the docs, executed by a kernel, and a cell that is interrupted."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"

EXECUTE = """
import json, sys
import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

book = nbformat.read(sys.argv[1], as_version=4)
stuck = '''
import os, signal
from framework.api import Callback

class Stop(Callback):
    def on_log(self, step, scalars):
        os.kill(os.getpid(), signal.SIGINT)  # as the button of a notebook does

from framework.config.compose import compose
from framework.experiment import NamedCallback
from framework.runs.run import run
config = compose(["data=digits", "model=mlp", "run.dir=stopped", "callbacks=[progress,checkpoint]"])
run(config, lambda built: built._replace(callbacks=(NamedCallback("stop", Stop(), ""), *built.callbacks)))
'''
book.cells += [new_code_cell(stuck), new_code_cell("framework.resume('stopped').status")]
NotebookClient(book, timeout=300, allow_errors=True, resources={"metadata": {"path": sys.argv[2]}}).execute()
json.dump([cell for cell in book.cells if cell.cell_type == "code"], sys.stdout)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The outputs of each cell of code, and two more."""
    folder = tmp_path_factory.mktemp("notebook")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "IPYTHONDIR": str(folder / "ipython")}
    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [cell["outputs"] for cell in json.loads(done.stdout)]


def html_of(outputs):
    return [each["data"]["text/html"] for each in outputs if "text/html" in each.get("data", {})]


def text_of(output):
    return "".join(output["data"]["text/plain"])


def test_cells_show_progress_and_results_and_no_alarm(cells):
    names, trained, refused, model, predicted, resumed, *_ = cells
    assert {"run", "resume", "load", "Result", "Trained"} <= set(ast.literal_eval(text_of(names[0])))
    bar, result = html_of(trained)
    assert '<progress value="88" max="88"' in bar and "100 %" in bar and "<polyline" in bar
    assert "train/loss" in result and "eval/accuracy" in result and "<polyline" in result and "runs/default" in result
    assert "Result(default: done at step 88" in text_of(trained[-1]) and len(text_of(trained[-1])) < 250
    assert "Did you mean 'mlp'?" in refused[0]["text"]
    (shown,) = html_of(model)
    assert "parameters" in shown and "float32" in shown and "<polyline" in shown
    assert len(text_of(model[0])) < 250 and text_of(predicted[0]) == "(2, 10)"
    assert float(text_of(resumed[-1])) > 0.8
    assert not [each for outputs in cells for each in outputs if each.get("name") == "stderr"]


def test_an_interrupted_cell_saves_and_is_one_line(cells):
    *said, error = cells[-2]
    assert any("stopping after this step" in each.get("text", "") for each in said)
    (line,) = error["traceback"]
    assert re.fullmatch(r"stopped at step \d+ by SIGINT; `framework resume stopped` goes on from there.", line)
    assert text_of(cells[-1][-1]) == "'done'"
