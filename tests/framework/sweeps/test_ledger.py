"""The ledger: leases, ends and events, seen by several workers, in both of its stores."""

import subprocess
import sys
import time

import pytest

from framework.errors import StorageError
from framework.sweeps import disks, journal
from framework.sweeps import ledger as ledgers
from framework.sweeps.folder import JOURNAL, LEDGER
from framework.sweeps.ledger import Ledger


@pytest.fixture(params=[LEDGER, JOURNAL])
def ledger(tmp_path, request):
    with Ledger(tmp_path / request.param, create=True) as ledger:
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


WRITERS = """
import sys
from pathlib import Path
from framework.sweeps.ledger import Ledger
name = sys.argv[2]
with Ledger(Path(sys.argv[1])) as ledger:
    for number in range(3):
        held = ledger.claim(number, name) is not None
        for step in range(1, 21):
            assert (ledger.report(number, name, step, {}) is not None) == held
        assert ledger.finish(number, name, "done", step=20) == held
"""


def test_writers_at_once_lose_nothing_and_share_no_point(ledger):
    command = [sys.executable, "-c", WRITERS, str(ledger.path)]
    writers = [subprocess.Popen([*command, f"writer {number}"]) for number in range(3)]
    assert [each.wait() for each in writers] == [0, 0, 0]
    points, events = ledger.points(), ledger.events()
    assert [(each.state, each.attempts, each.step) for each in points] == [("done", 1, 20)] * 3
    assert [each.id for each in events] == list(range(1, len(events) + 1)) and len(events) == 3 + 3 * 21
    for number in range(3):
        steps = [each.content["step"] for each in events if each.number == number and each.kind == "running"]
        assert steps == list(range(1, 21))


def test_data_hashes_and_new_folders_of_a_point(ledger):
    ledger.rehash(0, "other", {"config": {"seed": 0}, "components": {}, "data": {}})
    ledger.note_data(0, {"train": "abc"})
    assert ledger.point(0).content == {"config": {"seed": 0}, "components": {}, "data": {"train": "abc"}}
    ledger.claim(0, "mine")
    ledger.reopen(0)
    assert ledger.point(0).state == "running", "a point that runs is not begun anew"
    ledger.finish(0, "mine", "failed", exit_code=6, reason="no number")
    ledger.reopen(0, keep_failures=True, directory="runs/0~2")
    point = ledger.point(0)
    assert (point.state, point.failures, point.hash, point.directory) == ("waiting", 1, "", "runs/0~2")
    ledger.settle(0, "pruned")
    assert ledger.point(0).state == "pruned" and ledger.events()[-1].kind == "pruned"
    ledger.note(total=3)
    ledger.note(total=4, words=["a", "b"])
    assert ledger.facts() == {"total": 4, "words": ["a", "b"]}


@pytest.mark.parametrize("ledger", [JOURNAL], indirect=True)
def test_a_line_that_a_kill_cut_or_that_came_late_counts_for_nobody(ledger):
    late = ledger.path.read_bytes().splitlines(keepends=True)[-1]
    with ledger.path.open("ab") as file:
        file.write(late + b"01234567 [5, [[")
    with Ledger(ledger.path) as other:
        assert other.counts() == {"waiting": 3} and len(other.events()) == 3
        assert other.claim(0, "mine") is not None
    assert ledger.point(0).owner == "mine"


@pytest.mark.parametrize("ledger", [JOURNAL], indirect=True)
def test_a_line_that_is_damaged_hides_none_of_those_after_it(ledger):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"waiting", b"waitinf")
    ledger.path.write_bytes(b"".join(lines))
    with pytest.raises(StorageError, match="is damaged: of its lines, number 0 cannot be read, and later ones can"):
        Ledger(ledger.path)


@pytest.mark.parametrize("ledger", [JOURNAL], indirect=True)
@pytest.mark.parametrize("holder", ["of a process that is gone", "of another machine"])
def test_a_lock_whose_holder_is_gone_is_taken(ledger, monkeypatch, holder):
    ended = subprocess.run(
        [sys.executable, "-c", "from framework.sweeps.folder import owner; print(owner())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lock = ledger.path.with_name(f"{JOURNAL}.lock")
    lock.write_text(ended if holder == "of a process that is gone" else "elsewhere 1 2 3")
    if holder == "of another machine":
        monkeypatch.setattr(journal, "STALE", 0.0)
    assert ledger.claim(0, "mine") is not None
    assert not lock.exists() and {each.name for each in lock.parent.iterdir()} == {JOURNAL, f"{JOURNAL}.beats"}


@pytest.mark.parametrize(
    ("mount", "kind", "is_shared"),
    [
        ("/ - ext4 /dev/sda rw", "ext4", False),
        ("/data - nfs4 server:/data rw", "ext4", False),
        ("/home/me - nfs4 server:/me rw", "nfs4", True),
        (r"/home/me/two\040words - lustre mgs:/fs rw", "lustre", True),
        ("/home - fuse.sshfs server: rw", "fuse.sshfs", True),
        ("/home - fuse.fuse-overlayfs overlay rw", "fuse.fuse-overlayfs", False),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_its_last_mount(tmp_path, mount, kind, is_shared):
    place, _, rest = mount.partition(" - ")
    mounts = tmp_path / "mountinfo"
    lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw", f"30 22 0:40 / {place} rw shared:2 - {rest}"]
    mounts.write_text("\n".join(lines) + "\n")
    folder = disks.Path("/home/me/two words/sweeps/mnist")
    assert (disks.type_of(folder, mounts), disks.is_shared(folder, mounts)) == (kind, is_shared)
    assert disks.type_of(folder, tmp_path / "none") == ""


@pytest.mark.parametrize("name", [LEDGER, JOURNAL])
def test_what_is_no_ledger_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(StorageError, match="is no sweep"):
        Ledger(tmp_path / name)
    (tmp_path / name).write_text("not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(StorageError, match="cannot be read or written"):
        Ledger(tmp_path / name, create=True)
