"""The command line: a first word without `=` is a verb, everything else is Hydra's."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from framework.config import origins, policy, search_path
from framework.config.overrides import is_word, rewrite
from framework.errors import ConfigError, InterruptError, exit_code_of, line_of, nearest
from framework_bench.commands import bench, find_batch
from framework_verify.command import verify_resume


def main(words: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code: 0 done, 2 usage, 3 plugin, 4 data, 5 storage, 6 numerical, 7 peer,
    8 different.
    """
    words = list(sys.argv[1:] if words is None else words)
    with_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        dispatch(words)
    except (Exception, KeyboardInterrupt) as error:
        if with_traceback:
            traceback.print_exc()
        sys.stderr.write(line_of(error) + "\n")
        sys.exit(exit_code_of(error))


def dispatch(words: list[str]) -> None:
    """Call the verb, `train` when none is given.

    Raises: ConfigError if there is no such verb.
    """
    verb = words[0] if words and is_word(words[0]) else "train"
    if verb not in VERBS:
        raise ConfigError(f"no such command '{verb}'.{nearest(verb, VERBS)}")
    VERBS[verb](words[1:] if words[:1] == [verb] else words)


def train(words: list[str]) -> None:
    """Compose the config and run it; `-m`, `--cfg job`, `--help`, `--config-dir` and the like are Hydra's own.

    `train RUN` runs the recorded config of a run folder again.
    """
    if words and is_word(words[0]):
        from framework.runs.python_api import run

        run(words[1:], recorded=words[0])
        return
    overrides, flags, config_dir = _split(words)
    failures: list[Exception] = []
    task = _task(failures, config_dir)
    app = hydra.main(config_path="pkg://framework_conf", config_name="config", version_base="1.3")(task)
    # Hydra prints and exits on an error unless told otherwise; it reads its command line from sys.argv.
    before, os.environ["HYDRA_FULL_ERROR"] = os.environ.get("HYDRA_FULL_ERROR"), "1"
    argv, rewritten = sys.argv, rewrite(overrides)
    try:
        with (
            origins.told(lambda: origins.composed(overrides, config_dir)),
            search_path.session(),
            TemporaryDirectory(prefix="framework-") as scratch,
        ):
            policy.check_words(rewritten)
            # Hydra writes the whole config of a sweep into its folder, secrets too; each run has its own record.
            sweep = [f"hydra.sweep.dir={scratch}"] if _is_sweep(flags) else []
            sys.argv = [argv[0], *rewritten, *sweep, *flags]
            app()
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
    if failures and _is_sweep(flags):
        sys.exit(exit_code_of(failures[0]))  # each was said when its job ended
    if failures:
        raise failures[0]


def resume(words: list[str]) -> None:
    """`resume RUN [overrides] [--force]`: go on with a stopped run.

    Raises: ConfigError if no run folder is named.
    """
    force = "--force" in words
    words = [word for word in words if word != "--force"]
    if not words or not is_word(words[0]):
        raise ConfigError("resume: expected a run folder, such as `resume runs/mnist/20260101-120000-1a2b`.")
    from framework.runs.python_api import resume as resume_run

    resume_run(words[0], words[1:], force)


def plugins(words: list[str]) -> None:
    """List what is registered: everything, one kind, or one plugin with its options."""
    from framework.commands.plugins import show

    sys.stdout.write(show(words) + "\n")


VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "resume": resume,
    "bench": bench,
    "find-batch": find_batch,
    "verify-resume": verify_resume,
    "plugins": plugins,
}


def _task(failures: list[Exception], config_dir: str | None) -> Callable[[DictConfig], float | None]:
    """One job. Its error is kept for the end: Hydra would print it, and in a sweep the other jobs shall run."""

    def task(config: DictConfig) -> float | None:
        try:
            with origins.told(lambda: origins.composed(_job_words(), config_dir)):
                return _train_one(config)
        except Exception as error:
            if isinstance(error, InterruptError) and HydraConfig.get().mode == RunMode.MULTIRUN:
                sys.stderr.write(line_of(error) + "\n")
                sys.exit(error.exit_code)  # who stops a sweep means the jobs that follow too
            failures.append(error)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                sys.stderr.write(f"{line_of(error)} (job {' '.join(_job_words())})\n")
            return None

    return task


def _job_words() -> list[str]:
    """The overrides of this job, of which those that interpolate stay as they were given."""
    words = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(word) for word in words] if isinstance(words, list) else []


def _train_one(config: DictConfig) -> float | None:
    from framework.config.resolve import extended, plain, settings_of
    from framework.runs.folder import check_place

    # What is wrong with the config, or with where the run shall go, is said before JAX is imported.
    check_place(settings_of(plain(extended(config))).run)
    from framework.config.compose import experiment_name
    from framework.runs.run import run

    result = run(config, experiment_name(HydraConfig.get().runtime.choices))
    return result.metrics.get("eval/loss")


def _split(words: list[str]) -> tuple[list[str], list[str], str | None]:
    """Overrides, flags, and `--config-dir`. Hydra stops reading at an override that follows a flag after an override.

    Raises: ConfigError for a flag that Hydra would answer with its whole usage, and for those that read other things
      than configs of ours: a pickle, or a config in the place of the framework's.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; `--help` shows how to call.")

    parser.error = refuse
    known = parser.parse_intermixed_args(words)
    for flag in ("config_path", "config_name", "experimental_rerun"):
        if getattr(known, flag) is not None:
            refuse(f"--{flag.replace('_', '-')} is not taken, --config-dir adds a folder of experiments")
    overrides = list(known.overrides)
    flags, waiting = [], overrides
    for word in words:
        if waiting and word == waiting[0]:
            waiting = waiting[1:]
        else:
            flags.append(word)
    return overrides, flags, known.config_dir


def _is_sweep(words: list[str]) -> bool:
    return "-m" in words or "--multirun" in words
