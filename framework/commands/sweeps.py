"""The verb `sweep`: plan, watch, resume and end sweeps, and show their results; and the start of one by `-m`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from framework.command import Command
from framework.commands.answers import print_json
from framework.commands.arguments import Arguments
from framework.config.overrides import is_run_folder
from framework.console.output import shell_word
from framework.console.terminal import page_width
from framework.errors import ConfigError, InterruptError, nearest

UNFINISHED = 75
"""Exit code of `wait` where points are open and nobody works on them: EX_TEMPFAIL."""

POLL = 0.1
"""Seconds between two looks of `wait`."""


def sweep() -> Command:
    """Plan, watch, resume and end sweeps."""
    return Command("sweep", "plan, watch, resume and end sweeps, and show their results", run, group="train")


def run(words: list[str]) -> int | None:
    """Call one of the actions.

    Raises: ConfigError for an unknown one; SystemExit after `--help`; FrameworkError as the action.
    """
    if words and words[0] in ACTIONS:
        return ACTIONS[words[0]](words[1:])
    if {"--help", "-h"} & set(words):
        sys.stdout.write(HELP)
        sys.exit(0)
    if not words:
        raise ConfigError("sweep: name an action, such as status; `framework sweep --help` lists them.")
    known = [name for name in ACTIONS if name != "work"]
    raise ConfigError(f"sweep: no action is called '{words[0]}'.{nearest(words[0], known)}")


HELP = """usage: framework sweep ACTION SWEEP [options]

A sweep begins by -m, as `framework -m +experiment=mnist seed=0,1,2`. The same
command again goes on with it. From any shell:

  plan KEY=VALUE ...  show the points of a command, and what is done, without
                      training
  status SWEEP        count points by state; --points lists them
  wait SWEEP          wait until nobody works on it; 75 if points are open then
  resume SWEEP        go on: what was cut goes on from its checkpoint
  retry SWEEP         the same, and begin failed points once more
  stop SWEEP          end it in good order: running points save their state
  table SWEEP         show the results; --csv, --json, --md or --latex

`framework plot SWEEP` draws them.

example:
  framework sweep table sweeps/mnist/20260101-120000-1a2b --md
"""


def start(words: list[str], config_dir: str | None, detach: bool) -> int:
    """Begin a sweep, or go on with that of the same command.

    Returns: the exit code of the first point that failed, else 0.

    Raises: FrameworkError.
    """
    from framework.sweeps import plan as plans
    from framework.sweeps.start import begin

    folder = begin(plans.read(words, config_dir))
    return _detached(folder) if detach else _driven(folder)


def _driven(folder: Path, again: tuple[str, ...] = ("failed",)) -> int:
    from framework.sweeps.python_api import results
    from framework.sweeps.start import drive, show

    show(f"sweep folder: {folder}")
    try:
        code = drive(folder, show, again)
    except InterruptError:
        show(f"`framework sweep resume {shell_word(folder)}` goes on with the sweep")
        raise
    sys.stdout.flush()
    show(results(folder).text())
    return code


def _detached(folder: Path, action: str = "retry") -> int:
    """Drive a sweep by a process that outlives this shell."""
    from framework.sweeps import folder as folders

    command = [sys.executable, "-m", "framework", "sweep", action, str(folder)]
    with (folder / "driver.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=dict(os.environ)
        )
    while not folders.is_driven(folder):  # so that a `wait` which follows at once has something to wait for
        if (code := process.poll()) is not None:
            sys.stdout.write(f"{folder}: its driver has ended by now; {folder}/driver.log tells how\n")
            return code
        time.sleep(POLL)
    sys.stdout.write(
        f"{folder} is driven by process {process.pid}; `framework sweep wait {shell_word(folder)}` waits for it\n"
    )
    return 0


def _folder(arguments: Arguments, words: list[str]):  # noqa: ANN202 - argparse's own
    arguments.add_argument("folder", metavar="SWEEP", help="folder of the sweep")
    given = arguments.read(words)
    from framework.sweeps import folder as folders

    given.folder = folders.check(Path(given.folder))
    return given


def _plan(words: list[str]) -> None:
    arguments = Arguments(
        "sweep plan",
        "Show the points of a command without training: those that are done, those to come, and, for each of these, "
        "what differs from the nearest one that is done.",
        "sweep plan +experiment=mnist seed=0,1,2",
        "KEY=VALUE ...",
    )
    arguments.add_config()
    arguments.add_json()
    given = arguments.read(words)
    if given.words and is_run_folder(given.words[0]):
        raise ConfigError("sweep plan: expected the words of a sweep, such as +experiment=mnist seed=0,1.")
    from framework.sweeps import plan as plans
    from framework.sweeps.preview import preview

    found = preview(plans.read(given.words, given.config_dir))
    if given.json:
        print_json(found)
    else:
        sys.stdout.write(f"{found.text()}\n")


def _status(words: list[str]) -> None:
    arguments = Arguments("sweep status", "Count the points of a sweep by state.", "sweep status SWEEP", "SWEEP")
    arguments.add_argument("--points", action="store_true", help="list each point")
    arguments.add_json()
    given = _folder(arguments, words)
    from framework.sweeps import folder as folders
    from framework.sweeps import status
    from framework.sweeps.ledger import Ledger

    with Ledger(folders.ledger_of(given.folder)) as ledger:
        seen = status.seen(given.folder, ledger)
    if given.json:
        print_json(status.as_json(seen))
    else:
        listed = f"\n{status.table(seen, page_width())}" if given.points else ""
        sys.stdout.write(f"{status.line(seen)}{listed}\n")


def _wait(words: list[str]) -> int:
    arguments = Arguments(
        "sweep wait",
        "Wait until nobody works on a sweep. The exit code is that of the first point that failed, or 75 where points "
        "are open.",
        "sweep wait SWEEP",
        "SWEEP",
    )
    arguments.add_argument("--timeout", type=float, metavar="SECONDS", help="exit with 124 after that time")
    given = _folder(arguments, words)
    from framework.sweeps import folder as folders
    from framework.sweeps import status
    from framework.sweeps.ledger import Ledger

    until = time.monotonic() + given.timeout if given.timeout else None
    while folders.is_driven(given.folder) or _works(given.folder):
        if until is not None and time.monotonic() > until:
            sys.stderr.write(f"{given.folder} is not done after {given.timeout:g} s\n")
            return 124
        time.sleep(POLL)
    with Ledger(folders.ledger_of(given.folder)) as ledger:
        seen = status.seen(given.folder, ledger)
    sys.stdout.write(status.line(seen) + "\n")
    failed = [point for point in seen.points if point.state == "failed"]
    if failed:
        return failed[0].exit_code or 1
    if seen.is_open:
        sys.stderr.write("points are open, and nobody works on them\n")
        return UNFINISHED
    return 0


def _works(folder: Path) -> bool:
    """Tell whether a worker of a sweep shows life, as jobs of a cluster do that outlive their driver."""
    from framework.sweeps import folder as folders
    from framework.sweeps import status
    from framework.sweeps.ledger import Ledger

    with Ledger(folders.ledger_of(folder)) as ledger:
        return bool(status.seen(folder, ledger).counts["running"])


def _resume(words: list[str], action: str = "resume", again: tuple[str, ...] = ()) -> int:
    about = "Go on with a sweep: points that were cut go on from their checkpoints, and those that are done stay."
    if "failed" in again:
        about += " Failed points are begun once more."
    arguments = Arguments(f"sweep {action}", about, f"sweep {action} SWEEP", "SWEEP [--detach]")
    arguments.add_argument("--detach", action="store_true", help="return at once; another process goes on")
    given = _folder(arguments, words)
    return _detached(given.folder, action) if given.detach else _driven(given.folder, again)


def _retry(words: list[str]) -> int:
    return _resume(words, "retry", ("failed",))


def _stop(words: list[str]) -> None:
    about = "End a sweep in good order: running points save their state, and no other is begun."
    given = _folder(Arguments("sweep stop", about, "sweep stop SWEEP", "SWEEP"), words)
    from framework.sweeps import folder as folders

    folder = given.folder
    if not folders.is_driven(folder):
        sys.stdout.write(f"nobody drives {folder}\n")
        return
    pid = folders.driver_of(folder)
    if pid is None:
        (folder / folders.STOP).touch()
        sys.stdout.write(f"asked the driver of {folder}, on another machine, to begin no further point\n")
        return
    os.kill(pid, signal.SIGTERM)
    sys.stdout.write(f"asked process {pid} to stop; `framework sweep wait {shell_word(folder)}` waits for its end\n")


def _table(words: list[str]) -> None:
    arguments = Arguments("sweep table", "Show the results of a sweep.", "sweep table SWEEP --md", "SWEEP")
    formats = arguments.add_mutually_exclusive_group()
    arguments.add_json(formats)
    for name, about in (("csv", "CSV"), ("md", "Markdown"), ("latex", "LaTeX")):
        formats.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=f"as {about}")
    given = _folder(arguments, words)
    from framework.sweeps.python_api import results

    found = results(given.folder)
    if given.json:
        print_json(found.as_json())
    else:
        sys.stdout.write(found.text(given.format or "text") + "\n")


def _work(words: list[str]) -> int:
    """Train one point in this process, as a launcher asks for it."""
    arguments = Arguments("sweep work", "Train one point.", "sweep work SWEEP 3", "SWEEP NUMBER [KEY=VALUE ...]")
    arguments.add_argument("folder", metavar="SWEEP", help="folder of the sweep")
    arguments.add_argument("number", type=int, metavar="NUMBER", help="of the point")
    arguments.add_argument("words", nargs="*", metavar="KEY=VALUE", help="of the section distributed")
    arguments.add_argument("--follow", action="store_true", help="be one of several processes, but not the first")
    given = arguments.read(words)
    from framework.sweeps import folder as folders
    from framework.sweeps.here import show_error
    from framework.sweeps.ledger import Ledger
    from framework.sweeps.worker import follow, job_of, work

    folder = folders.check(Path(given.folder))
    with Ledger(folders.ledger_of(folder)) as ledger:
        point = ledger.point(given.number)
        config_dir = ledger.facts().get("config_dir")
    job = job_of(folder, point)
    job = job._replace(words=(*job.words, *given.words))
    if given.follow:
        follow(job, config_dir, point.budget)
        return 0
    return work(folder, job, is_all=True, tell=show_error).exit_code or 0


ACTIONS: dict[str, Callable[[list[str]], int | None]] = {
    "plan": _plan,
    "status": _status,
    "wait": _wait,
    "resume": _resume,
    "retry": _retry,
    "stop": _stop,
    "table": _table,
    "work": _work,
}
