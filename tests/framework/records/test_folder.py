"""A run folder holds one run, and a run writes nowhere else."""

from __future__ import annotations

import shutil

import pytest

import framework
from framework import testing
from framework.errors import StorageError

SAVING = ["train.steps=6", "train.checkpoint_every=2", "train.eval_every=2"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a run with checkpoints at steps 2, 4 and 6."""
    return testing.train(tmp_path_factory.mktemp("saved"), *SAVING).directory


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved, tmp_path / "run")


def without_record(folder):
    (folder / "run.json").unlink()
    return folder


def emptied(folder):
    (folder / "run.json").write_text("")
    return folder


@pytest.mark.parametrize("auto", [[], ["run.resume=auto"]])
@pytest.mark.parametrize("lose", [without_record, emptied])
def test_a_folder_with_parts_of_another_run_is_refused_and_left_as_it_is(folder, lose, auto):
    lose(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="holds a run already") as caught:
        testing.train(folder.parent, *SAVING, f"run.dir={folder}", "seed=1", *auto)
    testing.message(caught)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_root_of_all_folders_is_refused():
    with pytest.raises(StorageError, match=r"run\.dir: / is the root of all folders"):
        testing.train("/tmp", "run.dir=/")


LINKS = ["lock", "run.log", ".run.json.partial", ".config.yaml.partial", "metrics.jsonl", "metrics.jsonl.draft"]


@pytest.mark.parametrize("name", [*LINKS, "checkpoints", "media"])
def test_nothing_is_written_through_a_link_in_a_run_folder(folder, tmp_path, name):
    outside = tmp_path / "outside"
    inside = folder / name
    if inside.is_dir():
        inside.rename(outside)
    else:
        inside.unlink(missing_ok=True)
        outside.write_text("keep me")
    inside.symlink_to(outside)
    before = {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))}
    with pytest.raises(StorageError, match=f"{name} is a symbolic link") as caught:
        framework.resume(folder, ["train.steps=8"])
    testing.message(caught)
    assert before == {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))}


@pytest.mark.parametrize("name", [".probe", "run.json", "lock"])
def test_nothing_is_written_through_a_link_where_a_run_begins(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match=f"{name} is a symbolic link"):
        testing.train(tmp_path, f"run.dir={tmp_path}/run", "run.resume=auto")
    assert not (tmp_path / "outside").exists()


def test_event_files_that_are_links_are_left_alone(folder, tmp_path):
    (event,) = folder.glob("*/events.*")
    event.rename(tmp_path / "events")
    event.symlink_to(tmp_path / "events")
    size = (tmp_path / "events").stat().st_size
    framework.resume(folder, ["train.steps=8"])
    assert (tmp_path / "events").stat().st_size == size > 0
