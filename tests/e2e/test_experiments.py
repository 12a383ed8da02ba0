"""Every experiment keeps what its expected.json promises, by the very command that its README gives."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISES = [
    (path.parent.name, promise)
    for path in sorted((ROOT / "experiments").glob("*/expected.json"))
    for promise in json.loads(path.read_text())
]


def data_folder():
    """Find the folder of MNIST: the one that FRAMEWORK_DATA names, or the one beside the checkout."""
    candidates = [*os.environ.get("FRAMEWORK_DATA", "").split(os.pathsep), str(ROOT.parent / "shared" / "data")]
    return next((folder for folder in candidates if folder and (Path(folder) / "mnist").is_dir()), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "promise"), PROMISES, ids=lambda value: value if isinstance(value, str) else value["data"]
)
def test_an_experiment_keeps_its_promise(name, promise, tmp_path):
    folder = data_folder()
    if promise["data"] == "mnist" and folder is None:
        pytest.skip("needs MNIST in $FRAMEWORK_DATA or ../shared/data")
    assert promise["command"] in (ROOT / "experiments" / name / "README.md").read_text()
    python, *words = shlex.split(promise["command"])
    assert python == "python"
    environment = {**os.environ, "FRAMEWORK_DATA": folder or ""}
    command = [sys.executable, *words, f"run.dir={tmp_path}/run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert promise["data"] in record["data"].lower()
    for tag, least in promise["at_least"].items():
        assert record["metrics"][tag] >= least


@pytest.mark.slow
def test_a_network_that_knows_other_digits_learns_from_fewer_examples(tmp_path):
    folder = data_folder()
    if folder is None:
        pytest.skip("needs MNIST in $FRAMEWORK_DATA or ../shared/data")
    shown = (ROOT / "experiments" / "finetune" / "README.md").read_text()
    for line in re.findall(r"^python (.*)$", shown, re.MULTILINE):
        words = [*shlex.split(line.partition("    #")[0]), "train.eval_every=0", "callbacks=[checkpoint]"]
        if words[0] != "-m":
            words = [str(ROOT / words[0]), f"{folder}/mnist"]
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    nothing, tuned = (
        [row["metrics"]["eval/accuracy"] for row in json.loads((tmp_path / name / "run.json").read_text())["members"]]
        for name in ("nothing", "tuned")
    )
    gains = [after - before for before, after in zip(nothing, tuned, strict=True)]
    assert min(gains) > 0.005
    assert sum(gains) / 5 > 0.01
