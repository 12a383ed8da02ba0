"""R10: of two processes on one machine, one is killed, one hangs, or one is slow; the other ends in time, or waits."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import socket
import tempfile
import time
from pathlib import Path

from tests.faults.processes import Child, start
from tests.faults.runs import tail, words_of
from tests.faults.trials import Draws, Outcome, run_trials

TRIALS = {1: ("killed", "stuck", "slow"), 2: ("killed", "stuck", "slow") * 7, 3: ("killed", "stuck", "slow") * 30}
LIMIT = 15.0
"""Seconds: `run.watchdog`."""

GRACE = 100.0
"""Seconds that a survivor may take beyond that."""

PAUSE = 0.4 * LIMIT
PAUSES = 2
WORDS = ("strategy=sharded", "train.steps=100000000", "train.log_every=50", "train.eval_every=0")
WORDS += ("train.checkpoint_every=0", f"run.watchdog={LIMIT}")
SAYS = {"killed": r"is gone.*after step \d+", "stuck": r"process \d.*after step \d+"}


def peers(tier: int, draws: Draws) -> Outcome:
    """R10."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        words = [w for w in words_of(work, *WORDS) if not w.startswith(("callbacks", "data.transform"))]
        longest: list[float] = []

        def trial(index: int, generator: random.Random) -> str | None:
            kind = TRIALS[tier][index]
            place = work / str(index)
            place.mkdir()
            children = _start(place, words)
            try:
                problem = _trial(place, children, kind, generator, longest)
            finally:
                for child in children:
                    child.end()
            return problem and f"{kind}: {problem}"

        outcome = run_trials(draws, len(TRIALS[tier]), trial)
        figures = f"survivors ended within {max(longest, default=0):.1f} s, with a watchdog of {LIMIT:.0f} s"
        return outcome._replace(details=(figures, *outcome.details))


def free_port() -> int:
    """A port that is free now, and that the kernel gives to nobody who does not ask for it by number."""
    given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(given_away // 2, given_away)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def _start(place: Path, words: list[str]) -> list[Child]:
    meet = [f"run.dir={place}/run", f"distributed.coordinator=127.0.0.1:{free_port()}", "distributed.processes=2"]
    # JAX counts the devices of all; each process has its own one or two, whatever was set outside.
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    # Interpreters of their own: a forked child leaves without what is done at exit, which is when processes part.
    return [start([*words, *meet, f"distributed.process={i}"], place / f"err{i}", flags) for i in (0, 1)]


def _trial(place: Path, children: list[Child], kind: str, generator: random.Random, longest: list[float]) -> str | None:
    log, deadline = place / "run" / "metrics.jsonl", time.monotonic() + 1000
    while not (log.exists() and log.stat().st_size):
        if time.monotonic() > deadline or None not in [child.poll() for child in children]:
            return f"did not begin: {tail(place / 'err0')} / {tail(place / 'err1')}"
        time.sleep(0.05)
    time.sleep(generator.uniform(0, 1))
    number = generator.randrange(2)
    victim, survivor, errors = children[number], children[1 - number], place / f"err{1 - number}"
    if kind == "slow":
        return _slow(place, victim, children)
    began = time.monotonic()
    victim.send(signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
    if survivor.wait(LIMIT + GRACE) is None:
        return f"the survivor of process {number} did not end within {LIMIT + GRACE:.0f} s: {tail(errors)}"
    longest.append(time.monotonic() - began)
    said = [line for line in errors.read_text().splitlines() if line.startswith("error[")]
    if survivor.code != 7 or len(said) != 1 or not re.search(SAYS[kind], said[0]):
        return f"the survivor of process {number} ended with {survivor.code}, saying {said or tail(errors)}"
    return "a traceback" if "Traceback" in errors.read_text() else None


def _slow(place: Path, victim: Child, children: list[Child]) -> str | None:
    """Pauses that are shorter than the limit end nothing; a signal then stops both at one step."""
    for _ in range(PAUSES):
        victim.send(signal.SIGSTOP)
        time.sleep(PAUSE)
        victim.send(signal.SIGCONT)
        time.sleep(1)
    if [child.poll() for child in children] != [None, None]:
        return f"a false alarm: {tail(place / 'err0')} / {tail(place / 'err1')}"
    children[1].send(signal.SIGTERM)
    codes = [child.wait(300) for child in children]
    steps = {tuple(re.findall(r"SIGTERM at step (\d+)", (place / f"err{i}").read_text())) for i in (0, 1)}
    said = f"{tail(place / 'err0', 1)} / {tail(place / 'err1', 1)}"
    return None if codes == [143, 143] and len(steps) == 1 else f"then ended with {codes}, at steps {steps}: {said}"
