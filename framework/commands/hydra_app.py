"""Hydra's own program, for shell completion, and views of how a config is composed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from omegaconf import DictConfig, OmegaConf

from framework.config import search_path
from framework.config import words as typed
from framework.config.compose import whole
from framework.config.origins import Origins
from framework.config.overrides import rewrite
from framework.errors import ConfigError

Job = Callable[[DictConfig], float | None]


def show(words: list[str], config_dir: str | None, flags: list[str]) -> None:
    """Print what Hydra's flags ask for, such as `--cfg=job`.

    Raises: ConfigError.
    """
    if flags in (["--cfg=job"], ["--cfg=job", "--resolve"]):
        config = whole(words, config_dir)
        with search_path.config_errors():  # of an interpolation that leads nowhere
            text = OmegaConf.to_yaml(config, resolve="--resolve" in flags)
        sys.stdout.write(text)
        return
    shown = io.StringIO()  # of an error that comes later, nothing shall be seen
    with redirect_stdout(shown):
        _run(words, config_dir, flags, lambda config: None)
    sys.stdout.write(shown.getvalue())


def _run(words: list[str], config_dir: str | None, more: list[str], job: Job) -> None:
    """Call Hydra's program as `hydra.main` does, but with words of ours where that reads `sys.argv`."""
    parser, overrides, read = get_args_parser(), rewrite(words), {}
    with Origins(read, tuple(overrides)).locating(), search_path.session(read), _errors_raised():
        typed.read(overrides)
        if config_dir is not None and not Path(config_dir).expanduser().is_dir():
            raise ConfigError(f"{config_dir} is no folder.", key="config_dir")
        folder = [] if config_dir is None else [f"--config-dir={config_dir}"]
        given = parser.parse_args([*overrides, *more, *folder])
        version.setbase("1.3")
        _run_hydra(given, parser, job, "pkg://framework_conf", "config")


@contextmanager
def _errors_raised() -> Iterator[None]:
    """Let Hydra raise errors, where otherwise it prints them and exits."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
