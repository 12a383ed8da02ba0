"""`--json`: every verb that has it is on the page docs/json.md, with the keys that it prints."""

import json
import re
from pathlib import Path

import pytest

from framework import testing
from framework.commands.answers import json_of
from framework.commands.sweeps import ACTIONS
from framework.commands.verbs import installed

PAGE = Path(__file__).parents[3] / "docs" / "json.md"
ROWS = dict(re.findall(r"^\| `([a-z -]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))

ANSWERS = {
    "runs": ["runs", "here"],
    "show": ["show", "here/1"],
    "compare": ["compare", "here/1", "here/2"],
    "report": ["report", "here"],
    "plugins": ["plugins", "optimizer", "adam"],
    "inspect": ["inspect", *testing.TINY, "--quick"],
    "keys": ["keys", *testing.TINY],
    "doctor": ["doctor"],
    "find-batch": ["find-batch", *testing.TINY, "--seconds", "0.001", "--memory", "1GiB"],
    "bench": ["bench", *testing.TINY, "--seconds", "0.001"],
    "evaluate": ["evaluate", "here/1", "--worst", "2"],
    "sweep plan": ["sweep", "plan", *testing.TINY, "seed=0,1", "sweep.dir=sweep"],
    "sweep status": ["sweep", "status", "sweep"],
    "sweep table": ["sweep", "table", "sweep"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs, and a sweep that has begun no point."""
    from framework.sweeps import plan as plans
    from framework.sweeps.start import begin

    folder = tmp_path_factory.mktemp("json")
    for seed in ("1", "2"):
        testing.train(folder, "train.steps=2", f"seed={seed}", f"run.dir={folder}/here/{seed}")
    begin(plans.read([*testing.TINY, "seed=0,1", f"sweep.dir={folder}/sweep"]))
    return folder


def test_each_verb_that_answers_in_json_is_documented_and_no_other_one():
    names = [command.name for _, command in installed()[0] if command.name not in ("sweep", "help")]
    words = {name: [name] for name in names} | {f"sweep {name}": ["sweep", name] for name in ACTIONS}
    answering = {name for name, verb in words.items() if "--json" in testing.command(*verb, "--help").out}
    assert answering == set(ROWS)


@pytest.mark.parametrize("verb", ANSWERS)
def test_the_keys_of_an_answer_are_documented(folder, monkeypatch, verb):
    monkeypatch.chdir(folder)
    done = testing.command(*ANSWERS[verb], "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    found = answer[0] if isinstance(answer, list) else answer
    row = ROWS[verb] + (ROWS["runs"] if verb == "show" else "")
    assert found and set(found) <= set(re.findall(r"`([^`]+)`", row))


def test_tuples_paths_and_numbers_that_are_not_finite():
    value = {"found": testing.Completed(0, "a\x1b", ""), "path": Path("a"), 1: [float("nan"), -float("inf"), 0.5]}
    text = json_of(value)
    assert "\x1b" not in text
    assert json.loads(text) == {
        "found": {"code": 0, "out": "a\x1b", "err": ""},
        "path": "a",
        "1": ["NaN", "-Infinity", 0.5],
    }
