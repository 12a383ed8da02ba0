"""Profiles: the steps that were asked for, in files that TensorBoard's Profile plugin reads."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import pytest
from tensorboard.plugins.base_plugin import TBContext

from framework import testing
from framework.errors import ConfigError

STEPS = ["train.steps=8", "train.log_every=4", "train.eval_every=8", "train.steps_per_call=1", "callbacks=[]"]


def annotated(folder):
    """Return the steps of the train step's calls in a run's profile."""
    (path,) = folder.glob("profile/plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert any("hlo_op" in event.get("args", {}) for event in events)
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train")


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A run of which steps 3 and 4 are recorded."""
    return testing.train(tmp_path_factory.mktemp("profiled"), *STEPS, "debug.profile=[3,4]")


def test_a_profile_has_the_steps_that_were_asked_for_and_changes_no_bit(profiled, tmp_path):
    assert annotated(profiled.directory) == [3, 4]
    assert f"profile of steps 3 to 4: {profiled.directory}/profile;" in (profiled.directory / "run.log").read_text()
    testing.assert_same_bits(profiled.state, testing.train(tmp_path, *STEPS).state)


def test_a_chunk_is_one_call_and_ends_where_the_profile_does(tmp_path):
    run = testing.train(tmp_path, *STEPS, "train.steps_per_call=8", "debug.profile=[3,6]")
    assert annotated(run.directory) == [4, 6]  # a log comes between them


def test_the_profile_plugin_of_tensorboard_reads_it(profiled):
    reason = "needs TensorBoard's Profile plugin: pip install 'framework[profile]'"
    plugin = pytest.importorskip("xprof.profile_plugin", reason=reason)
    flags = SimpleNamespace(master_tpu_unsecure_channel="")
    context = TBContext(logdir=str(profiled.directory), flags=flags)
    (found,) = plugin.ProfilePlugin(context).generate_runs()
    assert found.startswith("profile/")
    convert = pytest.importorskip("xprof.convert.raw_to_tool_data", reason=reason)
    planes = [str(path) for path in profiled.directory.glob("profile/plugins/profile/*/*.xplane.pb")]
    shown, _ = convert.xspace_to_tool_data(planes, "trace_viewer", {})
    assert "step_num" in (shown if isinstance(shown, str) else shown.decode())


@pytest.mark.parametrize("steps", ["[9,9]", "[4,3]", "[0,3]"])
def test_steps_that_the_run_does_not_have_are_refused(tmp_path, steps):
    with pytest.raises(ConfigError, match=r"debug.profile: expected the first and the last of 8 steps, found"):
        testing.train(tmp_path, *STEPS, f"debug.profile={steps}")
    assert not list(tmp_path.iterdir())
