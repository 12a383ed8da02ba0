"""A quick sample of the faults, for every change; all by hand: `python -m tests.faults --tier 2 C1 C2 S1 S2`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import configs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", configs.CASES[::4], ids=lambda case: " ".join(case.words) or case.text[22:60])
def test_a_bad_config_is_refused_with_its_key_its_origin_and_the_nearest_name(folder, case):
    assert not configs.refuse(case, folder).fault


@pytest.mark.parametrize("name", configs.bombs())
def test_a_bomb_is_refused_before_it_expands(folder, name):
    assert not configs.compose_mutation(configs.HEADER + configs.bombs()[name], folder)


def test_mutations_never_crash(folder):
    faults = {number: configs.compose_mutation(text, folder) for number, text in configs.mutations(0, 40)}
    assert not {number: fault for number, fault in faults.items() if fault}


def test_what_is_good_composes(folder):
    assert not [
        text for text in configs.GOOD if configs.compose_mutation(configs.HEADER + text, folder, by_command=True)
    ]
    (folder / "experiment" / "case.yaml").write_text(configs.HEADER + configs.GOOD[0])
    assert configs.call(["--config-dir", str(folder), "--cfg", "job", "+experiment=case"]) == (0, "")


@pytest.mark.parametrize("kind", ["configs", "files"])
def test_no_attack_does_anything(kind):
    # In a process of its own: an audit hook cannot be taken away.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.hostile", kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
