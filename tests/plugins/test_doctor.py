"""`doctor`: sound installations pass, and each fault is found with what to do."""

from __future__ import annotations

import json

import jax
import pytest

from framework import testing
from framework_inspect import doctor


def by_topic(topic):
    return [finding for finding in doctor.examine() if finding.topic == topic]


def test_a_sound_installation_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = testing.command("doctor")
    assert shown.code == 0, shown.out
    assert "all is well" in shown.out
    found = json.loads(testing.command("doctor", "--json").out)
    assert {each["topic"] for each in found} == set(doctor.CHECKS)
    assert not [each for each in found if each["state"] == "bad"]
    assert list(tmp_path.iterdir()) == []
    assert f"jax {jax.__version__}" in shown.out


def test_a_broken_plugin_is_named(install):
    install("acme", {"framework.models": {"wide": "acme_gone:wide"}})
    (bad,) = [finding for finding in by_topic("plugins") if finding.state == "bad"]
    assert "acme_gone" in bad.text
    assert bad.advice == "reinstall acme, or remove it"
    assert testing.command("doctor").code == 2


@pytest.mark.parametrize(
    ("name", "value", "topic", "state"),
    [
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true", "environment", "note"),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg", "environment", "note"),
        ("FRAMEWORK_DATA", "/nowhere/at/all", "data", "bad"),
    ],
)
def test_a_variable_that_changes_a_run_is_told(monkeypatch, name, value, topic, state):
    monkeypatch.setenv(name, value)
    found = [finding for finding in by_topic(topic) if value in finding.text]
    assert [finding.state for finding in found] == [state]
    assert found[0].advice


def test_a_folder_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file in the place of the folder")
    monkeypatch.chdir(tmp_path)
    (bad,) = [finding for finding in by_topic("disk") if finding.state == "bad"]
    assert "is a file, expected a folder" in bad.text
    assert "run.root" in bad.advice


def test_settings_that_change_numbers_are_told_only_where_they_are_changed():
    assert doctor.DEFAULTS.keys() == set(doctor.SWITCHES)
    assert not [finding for finding in by_topic("environment") if finding.text.startswith("jax_")]
    with jax.enable_x64(True):
        assert "jax_enable_x64 is True, not False" in [finding.text for finding in by_topic("environment")]


def test_data_are_here_once_their_files_are(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEWORK_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mnist").mkdir()  # as a download leaves it that has failed
    assert [finding.state for finding in by_topic("data") if finding.text.startswith("mnist")] == ["note"]
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").touch()
    assert [f"mnist in {tmp_path}/mnist"] == [each.text for each in by_topic("data") if each.text.startswith("mnist")]
