"""Hydra's own launchers, chosen by a command line: each runs the command lines of points."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from framework.contracts.launcher import Job
from framework.errors import ConfigError
from framework.sweeps.hydra_launcher import HydraLauncher
from framework.testing import message

PROGRAM = "import sys; print('error[data]: none') if {code} else 0; sys.exit({code})"


def job(folder, number, code):
    return Job(number, 1, (), str(folder / "runs" / str(number)), (sys.executable, "-c", PROGRAM.format(code=code)))


def needs(module):
    is_missing = find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{module}") is None
    return pytest.mark.skipif(is_missing, reason=f"{module} is not installed")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["hydra/launcher=basic"], id="basic"),
        pytest.param(
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
            id="joblib",
            marks=[needs("hydra_joblib_launcher"), pytest.mark.slow],
        ),
        pytest.param(
            ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
            id="submitit",
            marks=[needs("hydra_submitit_launcher"), pytest.mark.slow],
        ),
        pytest.param(
            ["hydra/launcher=ray", "+hydra.launcher.ray.init={num_cpus: 2, include_dashboard: false}"],
            id="ray",
            marks=[needs("hydra_ray_launcher"), pytest.mark.slow],
        ),
    ],
)
def test_a_launcher_of_hydra_runs_the_points_of_a_sweep(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = [job(tmp_path, 0, 0), job(tmp_path, 1, 4), None, job(tmp_path, 2, 143)]
    outcomes = list(HydraLauncher(words).launch(iter(jobs), None))
    assert [(each.number, each.how, each.exit_code, each.reason) for each in outcomes] == [
        (0, "ended", 0, ""),
        (1, "ended", 4, "error[data]: none"),
        (2, "preempted", 143, "error[data]: none"),
    ]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == []  # nothing of Hydra stays
    if "hydra/launcher=ray" in words:
        import ray

        ray.shutdown()


def test_a_batch_has_a_limit(tmp_path):
    launcher = HydraLauncher(["hydra/launcher=basic", "hydra.sweeper.max_batch_size=2"])
    assert launcher.slots == 2
    taken = []

    def feed():
        for number in range(3):
            taken.append(number)
            yield job(tmp_path, number, 0)

    outcomes = launcher.launch(feed(), None)
    assert next(outcomes).number == 0 and taken == [0, 1]
    assert [each.number for each in outcomes] == [1, 2]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["hydra/launcher=nowhere"], "hydra/launcher=nowhere: no such config"),
        (["hydra/launcher=basic,joblib"], "hydra/launcher=basic,joblib: a launcher of Hydra takes one value"),
        (["hydra/launcher=basic", "hydra.launcher.n_jobs=2"], "hydra.launcher.n_jobs"),
        (["hydra/launcher=basic", "hydra.launcher._target_=os.system"], "there is no '_target_'"),
        (["hydra/launcher=basic", "+hydra.launcher.a={_target_: os.system}"], "there is no '_target_'"),
    ],
)
def test_what_hydra_does_not_take_is_refused_before_the_sweep(words, text):
    with pytest.raises(ConfigError) as caught:
        HydraLauncher(words)
    assert text in message(caught)
