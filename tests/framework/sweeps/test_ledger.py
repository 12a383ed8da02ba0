"""The ledger: leases, ends and events, seen by several workers."""

import subprocess
import sys
import time

import pytest

from framework.errors import StorageError
from framework.sweeps import ledger as ledgers
from framework.sweeps.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", create=True) as ledger:
        for number in range(3):
            ledger.add(number, f"hash-{number}", {"seed": number}, [f"seed={number}"], f"runs/{number}")
        yield ledger


def test_one_worker_alone_holds_a_point(ledger):
    with Ledger(ledger.path) as other:
        point = ledger.claim(1, "mine")
        assert point is not None and point.state == "running" and point.attempts == 1
        assert other.claim(1, "theirs") is None
        assert not other.beat(1, "theirs")
        assert other.report(1, "theirs", 3, {"eval/loss": 1.0}) is None
        assert not other.finish(1, "theirs", "done")
        assert ledger.beat(1, "mine")
        assert ledger.finish(1, "mine", "done", step=4, scalars={"eval/loss": 0.5, "eval/odd": float("nan")})
        assert other.claim(1, "theirs") is None, "a point that is done is never begun again"
        assert other.point(1).scalars == {"eval/loss": 0.5}
        assert other.counts() == {"waiting": 2, "done": 1}


def test_a_lease_that_ran_out_is_taken_by_another_and_ends_the_first(ledger, monkeypatch):
    assert ledger.claim(0, "stalled") is not None
    later = time.time() + ledgers.LEASE + 1
    monkeypatch.setattr(time, "time", lambda: later)
    taken = ledger.claim(0, "quick")
    assert taken is not None and taken.attempts == 2
    assert not ledger.beat(0, "stalled")
    assert not ledger.finish(0, "stalled", "done")
    assert ledger.finish(0, "quick", "failed", reason="it broke")
    assert (ledger.point(0).failures, ledger.point(0).reason) == (1, "it broke")


def test_events_keep_their_order_and_decisions(ledger):
    ledger.claim(2, "mine")
    event = ledger.report(2, "mine", 10, {"eval/loss": 2.0})
    assert event is not None and ledger.decision(event) is None
    ledger.decide(event, "pause")
    assert ledger.decision(event) == "pause"
    ledger.finish(2, "mine", "paused", step=10)
    ledger.ask_again(2, {"goes_on_from": 2, "budget": 20})
    kinds = [(each.kind, each.number) for each in ledger.events()]
    assert kinds == [("ask", 0), ("ask", 1), ("ask", 2), ("running", 2), ("paused", 2), ("ask", 2)]
    assert ledger.events()[4].content == {"step": 10, "scalars": {"eval/loss": 2.0}}
    assert ledger.point(2).budget == 20
    assert ledger.events(after=event)[0].kind == "paused"


WRITER = """
import sys
from pathlib import Path
from framework.sweeps.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.claim(0, "killed")
while True:
    ledger.report(0, "killed", 1, {"eval/loss": 1.0})
    print("x", flush=True)
"""


def test_a_killed_writer_leaves_a_whole_ledger(ledger):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(ledger.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    reports = [each for each in ledger.events() if each.kind == "running"]
    assert len(reports) >= 20
    assert ledger.finish(0, None, "lost", reason="its process is gone")
    assert ledger.claim(0, "next") is not None


def test_what_is_no_ledger_is_refused_in_one_line(tmp_path):
    with pytest.raises(StorageError, match="is no sweep"):
        Ledger(tmp_path / "ledger.sqlite")
    (tmp_path / "ledger.sqlite").write_text("not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(StorageError, match="cannot be read or written"):
        Ledger(tmp_path / "ledger.sqlite", create=True)
