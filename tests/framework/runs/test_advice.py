"""The ways out that messages advise after a loss that is not finite."""

from __future__ import annotations

import pytest

from framework import resume
from framework.errors import NumericalError
from framework.testing import message, run_record, train

WORDS = ["train.steps=6", "train.checkpoint_every=1", "optimizer=sgd", "schedule.value=1e30", "train.eval_every=0"]


@pytest.fixture
def failed(tmp_path):
    """A folder of a run whose second step gave a loss that is not finite."""

    def run(*words):
        with pytest.raises(NumericalError, match="train/loss is nan at step"):
            train(tmp_path, *WORDS, f"run.dir={tmp_path}/run", *words)
        return tmp_path / "run"

    return run


@pytest.mark.parametrize("strategy", ["jit", "pmap", "sharded"])
@pytest.mark.parametrize("per_call", ["1", "auto"])
def test_debug_nans_names_the_operation_when_a_run_goes_on(failed, strategy, per_call):
    folder = failed(f"strategy={strategy}")
    with pytest.raises(NumericalError) as caught:
        resume(folder, ["debug=nans", f"train.steps_per_call={per_call}"])
    assert "(nan) encountered in " in message(caught)
    assert "sharded computation" not in message(caught)


def test_a_debug_switch_of_a_resume_does_not_stick(failed):
    folder = failed()
    with pytest.raises(NumericalError, match="encountered in "):
        resume(folder, ["debug=nans"])
    assert run_record(folder)["config"]["debug"]["nans"] is False
    with pytest.raises(NumericalError, match="4 updates in a row are not finite"):
        resume(folder, ["nan_policy=skip", "train.skips_in_row=4"], force=True)


@pytest.mark.parametrize("ema", ["ema=null", "ema=0.9"])
def test_a_run_goes_on_by_another_policy(failed, ema):
    folder = failed(ema)
    with pytest.raises(NumericalError, match="4 updates in a row are not finite"):
        resume(folder, ["nan_policy=skip", "train.skips_in_row=4"], force=True)
    with pytest.raises(NumericalError, match="train/loss is nan at step"):
        resume(folder, ["nan_policy=stop"], force=True)
