"""Options of verbs, by argparse, with refusals of one line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from framework.config.overrides import is_run_folder
from framework.errors import ConfigError, nearest, printable

if TYPE_CHECKING:
    from framework.config.compose import Config


class Arguments(argparse.ArgumentParser):
    """The options of one verb and its `--help`, which shows an example."""

    def __init__(self, verb: str, about: str, example: str, usage: str = "[options]") -> None:
        """Begin with `--help` alone; `add_argument` adds options and words.

        Args:
          verb: as it is typed.
          about: sentences that say what the verb does.
          example: words to type after "framework".
          usage: what follows the verb.
        """
        super().__init__(
            usage=f"framework {verb} {usage}",
            description=about,
            epilog=f"example:\n  framework {example}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.verb, self.takes_run = verb, False
        self._positionals.title = "words"  # which argparse calls "positional arguments"

    def add_config(self) -> None:
        """Take overrides, or a run folder and overrides, as `config_of` reads them."""
        about = "override of the config, such as +experiment=mnist or seed=1; where the first is a RUN, the folder of "
        about += "one, its recorded config is taken"
        self.add_argument("words", nargs="*", metavar="KEY=VALUE", help=about)
        self.add_argument("--config-dir", "-cd", metavar="DIR", help="folder of configs of your own")

    def add_run(self, about: str = "folder of the run") -> None:
        """Take the folder of a run, without which `read` refuses the words."""
        self.takes_run = True
        self.add_argument("run", nargs="?", metavar="RUN", help=about)

    def add_trained(self) -> None:
        """Take a trained model: a run, one of its checkpoints, or the best run of a sweep, and `--member`."""
        self.add_run("folder of the run; RUN@500, RUN@best or SWEEP@best")
        about = "of a run that trained several: its number, or best (0)"
        self.add_argument("--member", type=_member, default=0, metavar="K", help=about)

    def add_words(self) -> None:
        """Take overrides of the config that a run recorded."""
        self.add_argument("words", nargs="*", metavar="KEY=VALUE", help="override of the recorded config")

    def add_json(self, among: argparse._MutuallyExclusiveGroup | None = None) -> None:
        """Take `--json`, for an answer of the shape that docs/json.md gives.

        Args:
          among: options of which a command takes one; None for an option of its own.
        """
        about = "answer as JSON, in the shape that docs/json.md gives"
        (among or self).add_argument("--json", action="store_true", help=about)

    def read(self, words: list[str]) -> argparse.Namespace:
        """Read the words after the verb, options and others in any order.

        Raises:
          ConfigError: an option is unknown, its value is missing or wrong, or no run is named.
          SystemExit: after `--help`.
        """
        found, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            option = unknown[0].partition("=")[0]
            if not option.startswith("-"):
                raise ConfigError(f"{self.verb}: unexpected word '{option}'; `framework {self.verb} --help` shows how.")
            known = [name for name in self._option_string_actions if name.startswith("--")]
            raise ConfigError(f"{self.verb}: no such option '{option}'.{nearest(option, known)}")
        if self.takes_run and found.run is None:
            text = f"expected a run folder, such as `{self.verb} runs/mnist/20260101-120000-1a2b`"
            raise ConfigError(f"{self.verb}: {text}.")
        return found

    def format_help(self) -> str:
        """Return the help, in which a terminal obeys nothing."""
        return printable(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Refuse what argparse refuses, in one line.

        Raises: ConfigError.
        """
        message = message.removeprefix("argument ").rstrip(".")
        raise ConfigError(f"{self.verb}: {message}; `framework {self.verb} --help` shows how.")


def _member(word: str) -> int | str:
    if word != "best" and not word.isdecimal():
        raise argparse.ArgumentTypeError(f"expected the number of a member, from 0, or best, found '{word}'")
    return word if word == "best" else int(word)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help whose example keeps its lines, and whose description is wrapped."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def config_of(words: list[str], config_dir: str | None = None) -> Config:
    """Compose the config that overrides choose, or read that of a run folder, if a folder is the first word.

    Raises: ConfigError; StorageError if the first word is taken for a run folder, and is none.
    """
    from framework.commands.help import experiments
    from framework.records.neighbours import refusal

    is_recorded = bool(words) and is_run_folder(words[0])
    if is_recorded and not any((Path(words[0]) / name).exists() for name in ("config.yaml", "run.json")):
        if words[0] in experiments():
            raise ConfigError(f"'{words[0]}' is an experiment, and no run folder; write +experiment={words[0]}.")
        raise refusal(Path(words[0]))
    from framework.config.compose import compose, recorded  # Hydra, for which no refusal waits

    if is_recorded:
        return recorded(words[0], words[1:], config_dir)
    return compose(words, config_dir)
