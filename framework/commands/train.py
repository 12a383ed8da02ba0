"""The verb `train`, which is meant wherever overrides come without a verb."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from framework.command import Command
from framework.commands.arguments import Arguments, config_of
from framework.config.overrides import is_of_sweep, is_run_folder
from framework.errors import ConfigError
from framework.startup import import_jax

if TYPE_CHECKING:
    from framework.runs.run import Result


def train() -> Command:
    """Train an experiment."""
    return Command("train", "train an experiment; before KEY=VALUE it can be left out", run, group="train")


def run(words: list[str]) -> int | None:
    """Train, or sweep, or show the config.

    Raises: FrameworkError.
    """
    given, flags = _read(words), []
    if given.multirun or (flags := _showing(given)):
        _check_overrides(given.words)
    if flags:
        from framework.commands.hydra_app import show

        show(given.words, given.config_dir, flags)
    elif given.multirun:
        from framework.commands.sweeps import start

        return start(given.words, given.config_dir, given.detach)
    else:
        _check_sections(given.words)
        train_one(_of_best(given.words) if given.best else given.words, given.config_dir)
    return None


def train_one(words: list[str], config_dir: str | None = None) -> Result:
    """Compose a config and run it. What is wrong with it, or with its run folder, is said before JAX is imported.

    Raises: FrameworkError.
    """
    config = config_of(words, config_dir)
    if config.settings.distributed.coordinator is None:  # of several processes, the first checks for all
        from framework.records.folder import check_place

        with config.locating():
            check_place(config.settings.run)
    import_jax()
    from framework.runs.run import run

    return run(config)


def _read(words: list[str]) -> Namespace:
    arguments = Arguments(
        "train",
        "Train an experiment: the default one with the overrides that are given, or the recorded one of a run folder. "
        "`framework plugins` lists what can be chosen.",
        "train +experiment=mnist optimizer.learning_rate=0.01 metrics+=perplexity",
        "[RUN] [KEY=VALUE ...] [options]",
    )
    arguments.add_config()
    instead = arguments.add_mutually_exclusive_group()
    instead.add_argument("--multirun", "-m", action="store_true", help="sweep: train each point, as of seed=1,2,3")
    instead.add_argument("--cfg", "-c", choices=["job", "hydra", "all"], help="show the composed config: job is ours")
    choices = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    about = f"show how the config is composed: {', '.join(choices)}"
    instead.add_argument("--info", "-i", nargs="?", const="all", choices=choices, metavar="WHAT", help=about)
    about = 'complete words in a shell; eval "$(framework -sc install=bash)" begins'
    instead.add_argument("--shell-completion", "-sc", action="store_true", help=about)
    arguments.add_argument("--detach", action="store_true", help="with --multirun: return at once; docs/sweep.md")
    arguments.add_argument("--best", action="store_true", help="RUN is a sweep: train its best point anew")
    arguments.add_argument("--resolve", action="store_true", help="with --cfg: without interpolations")
    arguments.add_argument("--package", "-p", metavar="KEY", help="with --cfg: only this section")
    given = arguments.read(words)
    if (given.resolve or given.package) and not given.cfg:
        arguments.error("--resolve and --package go with --cfg")
    if given.detach and not given.multirun:
        arguments.error("--detach goes with --multirun")
    if given.best and (given.multirun or not (given.words and is_run_folder(given.words[0]))):
        arguments.error("--best goes with the folder of a sweep, such as sweeps/mnist/20260101-120000-1a2b")
    return given


def _of_best(words: list[str]) -> list[str]:
    """Put the run folder of the best point in the place of a sweep's folder, and name the run after both.

    Raises: StorageError if it is no sweep, or no point of it is done.
    """
    from framework.sweeps.start import best_of

    folder, name = best_of(Path(words[0]))
    return [str(folder), f"run.name={name}", *words[1:]]


def _check_sections(words: list[str]) -> None:
    """Refuse words that a sweep alone has a use for.

    Raises: ConfigError.
    """
    for word in words:
        if is_of_sweep(word):
            raise ConfigError("it is of a sweep, and this is one run; add -m, or leave it out.", key=word)


def _check_overrides(words: list[str]) -> None:
    """Check that Hydra's own program, which knows no run folders, gets overrides alone.

    Raises: ConfigError.
    """
    if words and is_run_folder(words[0]):
        text = "a sweep, or a view of a config, begins with overrides such as +experiment=mnist, and not with a run."
        raise ConfigError(text, key=words[0])


def _showing(given: Namespace) -> list[str]:
    """Return Hydra's flags, where something is to be shown instead of trained."""
    flags = [f"--{name}={value}" for name in ("cfg", "info", "package") if (value := getattr(given, name))]
    names = ("resolve", "shell_completion")
    return flags + [f"--{name.replace('_', '-')}" for name in names if getattr(given, name)]
