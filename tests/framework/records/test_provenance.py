"""run.json says what was typed, on which code and machine, for each process that worked on a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

import framework
from framework import testing
from framework.errors import ConfigError, InterruptError
from framework.records import provenance, starts
from framework.records.logs import console, run_log

SECRET = "hush-hush-hush"
BEFORE = "rate = 1\nname = 'old'\n"
AFTER = f"rate = 2\nname = 'old'\npassword = 'swordfish'\nnote = '{SECRET}'\n"


def git(folder, *words):
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout one commit ahead of its upstream, with a change and a source that git does not know."""
    folder = tmp_path_factory.mktemp("checkout")
    git(folder, "init", "-q", "--bare", "-b", "main", "upstream")
    git(folder, "clone", "-q", "upstream", "mine")
    mine = folder / "mine"
    (mine / "train.py").write_text(BEFORE)
    (mine / ".gitignore").write_text("ignored.py\n")
    git(mine, "add", ".")
    git(mine, "commit", "-qm", "one")
    git(mine, "push", "-q", "origin", "HEAD:main")
    git(mine, "branch", "-q", "--set-upstream-to=origin/main")
    (mine / "local.py").write_text("x = 1\n")
    git(mine, "add", ".")
    git(mine, "commit", "-qm", "two")
    (mine / "train.py").write_text(AFTER)
    (mine / "model").mkdir()
    (mine / "model" / "net.py").write_text("layers = 3\n")
    for name in ("ignored.py", "data.bin"):
        (mine / name).write_text("no source\n")
    return mine


@pytest.fixture(scope="module")
def run(checkout):
    """A run from a folder of the checkout, and one more process that went on with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout / "model")
        patch.setenv("ACME_TOKEN", SECRET)
        patch.setenv("XLA_FLAGS_OF_MINE", "1")
        patch.setenv("FRAMEWORK_API_KEY", "sesame-sesame")
        patch.setattr(sys, "argv", ["/bin/framework", "train", "callbacks.web.token=abc", "run.name=a b"])
        result = testing.train(checkout / "runs", "train.steps=2")
        return framework.resume(result.directory, ["train.steps=4"])


def test_each_process_leaves_an_entry(run, checkout):
    record = testing.run_record(run)
    first, second = record["starts"]
    assert first["typed"] == "framework train 'callbacks.web.token=***' 'run.name=a b'"
    assert first["folder"] == str(checkout / "model")
    assert (first["from_step"], second["from_step"]) == (0, 2) == (0, *record["resumed"])
    assert first["variables"]["XLA_FLAGS_OF_MINE"] == "1" and "FRAMEWORK_API_KEY" not in first["variables"]
    for start in (first, second):
        assert start["status"] == "done" and start["started"] <= start["ended"]
        assert start["cpu"] and start["memory_mib"] > start["peak_memory_mib"] > 20 and start["cores"] >= 1
        assert start["packages_changed"] == {} and start["devices"]
    assert record["total_seconds"] == pytest.approx(first["seconds"] + second["seconds"], abs=1e-3)
    assert record["seconds"] == second["seconds"] and record["started"] == first["started"]
    assert record["packages"].items() >= record["versions"].items()
    assert all(len(plugin["sources"]) == 64 for plugin in record["plugins"].values())
    everything = b"".join(path.read_bytes() for path in run.directory.iterdir() if path.is_file())
    assert not [word for word in (SECRET, "swordfish", "sesame") if word.encode() in everything]


def test_the_patches_make_the_sources_again_but_for_secrets(run, checkout, tmp_path):
    first, second = testing.run_record(run)["starts"]
    found = first["git"]
    assert found == second["git"] and len(list(run.directory.glob("code-*"))) == 2
    assert (found["commit"], found["branch"], found["dirty"]) == (git(checkout, "rev-parse", "HEAD"), "main", True)
    assert (found["upstream"], found["upstream_commit"]) == ("origin/main", git(checkout, "rev-parse", "HEAD~"))
    for name, base in (("patch", found["commit"]), ("upstream_patch", found["upstream_commit"])):
        again = tmp_path / name
        git(tmp_path, "clone", "-q", str(checkout), name)
        git(again, "checkout", "-q", base)
        git(again, "apply", str(run.directory / found[name]))
        assert (again / "train.py").read_text() == AFTER.replace(SECRET, "***").replace("swordfish", "***")
        assert {path.name for path in again.rglob("*.py")} == {"train.py", "local.py", "net.py"}
        assert not (again / "data.bin").exists()
    assert git(checkout, "status", "--porcelain", "model") == "?? model/"  # the index is as it was


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda folder: None, None),
        (lambda folder: git(folder, "init", "-q", "-b", "main"), {"commit": None, "branch": "main", "dirty": False}),
    ],
    ids=["no checkout", "no commit"],
)
def test_what_has_no_commit(tmp_path, make, facts):
    make(tmp_path)
    code = provenance.code_of(tmp_path)
    assert (None if code is None else code.facts) == facts
    assert provenance.write_code(code, tmp_path) == facts


def test_a_patch_that_holds_data_is_not_kept(tmp_path):
    code = provenance.Code({"dirty": True}, {"patch": "x" * (provenance.LARGEST + 1)})
    assert provenance.write_code(code, tmp_path) == {"dirty": True, "patch_left_out": "1048577 bytes"}
    assert list(tmp_path.iterdir()) == []


def test_no_git_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.Asked(()).answer() is None


def test_a_killed_process_ended_with_its_last_record(tmp_path):
    began = {"started": "2026-01-01T00:00:00+0000", "status": "running"}
    at = 1767225600
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "time": at + 7.5 * step}) + "\n" for step in (1, 2))
    )
    (killed,) = starts.former([began], tmp_path)
    assert (killed["status"], killed["seconds"]) == ("killed", 15.0)
    assert starts.total_seconds([killed, {"seconds": 2}, {}]) == 17.0
    shutil.rmtree(tmp_path)
    assert starts.former([began], tmp_path) == [began | {"status": "killed"}]
    assert starts.former([killed], tmp_path) == [killed] and starts.former([], tmp_path) == []


def test_the_error_that_ends_a_run_is_in_its_log(tmp_path):
    folder = tmp_path / "run"
    result = testing.train(tmp_path, "train.steps=2", f"run.dir={folder}")
    with pytest.raises(ConfigError, match="resume would change"):
        framework.resume(result.directory, ["seed=3", "train.steps=4"])
    *_, last = (folder / "run.log").read_text().splitlines()
    assert " ERROR error[config]: resume would change what the run computes: seed (0 to 3)" in last


@pytest.mark.parametrize(
    ("error", "level", "line", "lines"),
    [
        (ValueError(f"no {SECRET}"), "ERROR", "error[internal]: ValueError: no ***", 5),
        (InterruptError("SIGINT at step 3", 130), "INFO", "SIGINT at step 3", 1),
    ],
    ids=["ours", "stopped"],
)
def test_an_error_that_is_not_ours_has_its_trace(tmp_path, error, level, line, lines):
    with pytest.raises(type(error)), console(), run_log(tmp_path, {SECRET}):
        raise error
    found = (tmp_path / "run.log").read_text().splitlines()
    assert f" {level} {line}" in found[0] and len(found) >= lines
    assert not any(SECRET in each for each in found)
