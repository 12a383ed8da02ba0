"""The launcher `ray` on a cluster of Ray on this machine: ends of points, several processes, a node that is lost."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec

import pytest

from framework.contracts.launcher import Job
from framework.errors import ConfigError
from framework_ray.launcher import ray

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.filterwarnings("ignore"),  # those of Ray itself
]

SAVED = """
import signal, sys, time
def save(*_):
    open(sys.argv[1] + ".saved", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], "w").close()
time.sleep(600)
"""
PLACE = "import sys; open(sys.argv[1] + ('.1' if '--follow' in sys.argv else '.0'), 'w').write(' '.join(sys.argv[2:]))"


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node with two processors, to which nodes can be added."""
    import ray as core
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield found
    core.shutdown()
    found.shutdown()


def job(folder, number, program, *words, attempt=1):
    return Job(number, attempt, (), str(folder / "runs" / str(number)), (sys.executable, "-c", program, *words))


def waiting(condition):
    """Have no job to give until a condition holds."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        yield None


@pytest.mark.slow
def test_points_are_tasks_of_ray_and_end_as_they_end(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRAMEWORK_MARK", "passed")
    says = "import os, sys; print('error[data]:', os.getcwd(), os.environ['FRAMEWORK_MARK']); sys.exit({code})"
    programs = [SAVED, says.format(code=0), says.format(code=4), "import os; os.kill(os.getpid(), 9)"]
    begun = tmp_path / "begun"
    launcher = ray(address=cluster.address)

    def feed():
        yield from (job(tmp_path, number, program, str(begun)) for number, program in enumerate(programs))
        while True:
            yield None

    outcomes = launcher.launch(feed(), None)
    ends = sorted(next(outcomes) for _ in range(3))
    assert launcher.slots == 2
    assert [(each.number, each.how, each.exit_code) for each in ends] == [
        (1, "ended", 0),
        (2, "ended", 4),
        (3, "lost", -9),
    ]
    assert ends[1].reason == f"error[data]: {tmp_path} passed" and "SIGKILL" in ends[2].reason
    end = time.monotonic() + 300
    while not begun.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    outcomes.close()
    assert (tmp_path / "begun.saved").exists()


@pytest.mark.slow
def test_the_processes_of_a_point_are_told_of_each_other(cluster, tmp_path):
    (outcome,) = ray(address=cluster.address, processes=2).launch(
        iter([job(tmp_path, 0, PLACE, str(tmp_path / "p"))]), None
    )
    assert outcome.exit_code == 0
    told = [(tmp_path / f"p.{process}").read_text().split() for process in (0, 1)]
    assert told[0][0].startswith("distributed.coordinator=") and told[0][0] == told[1][0]
    assert told[0][1:] == ["distributed.processes=2", "distributed.process=0"]
    assert told[1][1:] == ["distributed.processes=2", "distributed.process=1", "--follow"]


@pytest.mark.slow
def test_a_point_whose_node_is_lost_is_lost_and_runs_on_another(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, resources={"spot": 1})
    begun = tmp_path / "begun"

    def feed():
        yield job(tmp_path, 0, SAVED, str(begun))
        yield from waiting(begun.exists)
        cluster.remove_node(node, allow_graceful=False)

    (outcome,) = ray(address=cluster.address, resources={"spot": 1}, at_once=2).launch(feed(), None)
    assert (outcome.how, outcome.exit_code) == ("lost", None) and outcome.reason
    cluster.add_node(num_cpus=1, resources={"spot": 1})
    again = job(tmp_path, 0, "pass", attempt=2)
    (outcome,) = ray(address=cluster.address, resources={"spot": 1}).launch(iter([again]), None)
    assert (outcome.how, outcome.exit_code, outcome.attempt) == ("ended", 0, 2)


def test_a_point_that_takes_nothing_is_refused():
    with pytest.raises(ConfigError, match="cpus: a point takes neither a processor nor a GPU"):
        ray(cpus=0)
