"""Words of a command line: read by Hydra's grammar, checked, and refused in words of ours before any is composed."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Sweep

from framework.config import policy
from framework.config.overrides import as_typed, quoted
from framework.config.safe_load import MAX_SCALAR
from framework.errors import ConfigError, nearest
from framework.registry.kinds import COMPONENTS, GROUPS

MAX_JOBS = 10_000  # of a sweep

BATCH = "hydra.sweeper.max_batch_size"
"""Key of the number of points that one of Hydra's launchers gets at once."""

CHOOSABLE = (*GROUPS, "debug", "experiment")
"""Keys whose value may be the name of a file."""

EXAMPLE = "expected KEY=VALUE, such as seed=1 or model.hidden=[8]."

CALLS = {
    "bool": "bool(1)",
    "choice": "choice(1,2)",
    "float": "float(1)",
    "glob": "glob(*)",
    "int": "int(1.0)",
    "interval": "interval(0,1)",
    "range": "range(1,4)",
    "shuffle": "shuffle(1,2)",
    "sort": "sort(2,1)",
    "str": "str(1)",
    "tag": "tag(mine,choice(1,2))",
}
"""The functions of Hydra's grammar, each in a call."""

_KEY = re.compile(r"(\+{1,2}|~)?[A-Za-z_][\w-]*([./][\w-]+)*", re.ASCII)


def read(words: Sequence[str], *, sweeps: bool = False) -> list[Override]:
    """Read overrides, and check each as Hydra will take it.

    Args:
      words: as `rewrite` returns them.
      sweeps: a key may have several values, one for each job.

    Raises: ConfigError naming the word that cannot be read, is longer than a config's can be, has several values where
      one is meant, or holds what `policy.check_content` refuses.
    """
    overrides, jobs = [_parsed(word) for word in words], 1
    for override in overrides:
        _check(override)
        if override.is_sweep_override():
            jobs *= _jobs(override, sweeps)
        if jobs > MAX_JOBS:
            raise ConfigError(f"the sweep has more than {MAX_JOBS} jobs.", key=_typed(override))
    return overrides


def is_of_launcher(word: str) -> bool:
    """Tell a word that chooses one of Hydra's launchers, or sets an option of it."""
    key = word.lstrip("+").partition("=")[0]
    return key in ("hydra/launcher", BATCH) or key.startswith("hydra.launcher.")


def read_launcher(words: Sequence[str]) -> list[Override]:
    """Read the words of `is_of_launcher`, which are for Hydra's own program.

    Raises: ConfigError for one that cannot be read, has several values, or holds what no config may hold.
    """
    overrides = [_parsed(word) for word in words]
    for override in overrides:
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError("a launcher of Hydra takes one value for each option.", key=_typed(override))
        content: Any = override.value()
        for name in reversed(re.split(r"[./]", override.key_or_group)[1:]):
            content = {name: content}
        policy.check_content(content)
    return overrides


@functools.lru_cache(maxsize=256)  # the points of a sweep have most of their words in common
def _parsed(word: str) -> Override:
    if len(word) > MAX_SCALAR:
        raise ConfigError(f"found {len(word)} characters, expected at most {MAX_SCALAR}.", key=f"{word[:40]}…")
    if digits := re.search(r"\d{400,}", word):
        text = f"found a number of {len(digits[0])} digits; none of that size can be used."
        raise ConfigError(text, key=word.partition("=")[0].lstrip("+"))
    try:
        return OverridesParser.create().parse_override(word)
    except Exception as error:  # of a grammar, of functions that it calls, or of endless nesting
        call = re.search(r"while evaluating '\s*([\w-]+)", str(error))
        text = _explain_call(call[1], as_typed(word)) if call else _explain(word)
        raise ConfigError(text, key=as_typed(word)) from error


def _explain(word: str) -> str:
    """Say what is wrong with a word that the grammar does not take."""
    is_key = _KEY.fullmatch(word.partition("=")[0])
    key, equals, value = as_typed(word).partition("=")
    if found := re.fullmatch(r"([\w.-]+)\[(\w+)\]", key):
        return f"an item is named after a dot: {found[1]}.{found[2]}=…"
    if not equals or not is_key:
        return EXAMPLE
    bare = re.sub(r"(?<=[{,])(\s*)(['\"])([^'\"]*)\2(?=\s*:)", r"\1\3", value)
    if bare != value:
        return f"the keys of a mapping have no quotes: {key}={bare}"
    shapes = "a list is such as [1,2], a mapping {a: 1}"
    if any(value.count(opening) != value.count(closing) for opening, closing in ("[]", "{}", "()")):
        return f"a bracket has no partner; {shapes}."
    if value.startswith("("):
        return f"a list has square brackets: {key}=[{value.strip('()')}]"
    text = "the value cannot be read"
    if key.endswith("+"):  # of `metrics+=auc`, the grammar sees a list
        return f"{text}; {shapes}."
    return f"{text}; {f'{shapes}; ' if value[:1] in ('[', '{') else ''}{_in_quotes(key, value)}"


def _explain_call(function: str, word: str) -> str:
    """Say what is wrong with a call that the grammar takes, and that fails."""
    if function in CALLS:
        return f"{function}(…) cannot be read so; a call is such as {CALLS[function]}."
    key, _, value = word.partition("=")
    if "layers" in key:
        return f"'{function}' is no function; a layer with options is such as {{{function}: 3}}."
    hint = nearest(function, CALLS) if len(function) > 3 else ""
    return f"'{function}' is no function; {_in_quotes(key, value)}{hint}"


def _in_quotes(key: str, value: str) -> str:
    return f'a text is quoted twice: {key}="{quoted(value.strip(chr(34) + chr(39)))}"'


def _check(override: Override) -> None:
    """Refuse keys and values that no config can have."""
    key, package, word = override.key_or_group, override.package, _typed(override)
    if not key:
        raise ConfigError(EXAMPLE, key=word)
    if (package and policy.names_hydra(package)) or ("/" in key and policy.names_hydra(key)):
        raise ConfigError("of Hydra's own groups, hydra/launcher=NAME alone can be chosen, with -m.", key=word)
    names_section = key in COMPONENTS and package is not None and package.isidentifier() and not override.is_delete()
    if package is not None and not names_section:
        text = f"a component is chosen as {key}=NAME, or as model@SECTION=NAME for a section of another name"
        raise ConfigError(f"a key has no '@'; {text}.", key=word)
    content: Any = word if override.is_sweep_override() else override.value()
    if _holds_sweep(content):
        raise ConfigError("a list or a mapping cannot hold a sweep; list whole values, such as [1],[2].", key=word)
    if override.is_force_add() and key in CHOOSABLE and isinstance(content, str | list):
        text = f"expected {'+' if key == 'experiment' else ''}{key}=NAME; one that is chosen takes no '++'."
        raise ConfigError(text, key=word)
    if key in CHOOSABLE and isinstance(content, list):
        if not all(isinstance(name, str) for name in content):
            raise ConfigError(f"expected names, such as {key}=[NAME].", key=word)
        if key in COMPONENTS and len(content) != 1:
            raise ConfigError(f"expected one name, found {len(content)}; a run has one {key}.", key=word)
    for name in reversed(key.split(".")):
        content = {name: content}
    policy.check_content(content)


def _jobs(override: Override, sweeps: bool) -> int:
    """Count the values that a sweep gives to a key; a range is not made for that."""
    key, sweep = override.key_or_group, override.value()
    if override.is_interval_sweep() and sweeps:
        return 1  # a search chooses from it
    if override.is_interval_sweep():
        raise ConfigError("an interval has no single values; list some, as 1,2,3 or range(1,4).", key=key)
    if isinstance(sweep, Glob) and key not in CHOOSABLE:
        raise ConfigError(f"glob(…) chooses files of a group, such as model=glob(*); '{key}' has none.", key=key)
    if not sweeps:
        raise ConfigError(_explain_sweep(override), key=_typed(override))
    if override.is_range_sweep():
        found: Any = sweep
        if not found.step:
            raise ConfigError("the step of a range cannot be 0.", key=key)
        return max(1, int(abs((found.stop - found.start) / found.step))) if found.stop is not None else 1
    choices: Any = getattr(sweep, "list", None) or []
    if any(isinstance(choice, Sweep | Glob) for choice in choices):
        raise ConfigError("a sweep cannot hold another one; list its values, such as 1,2,3.", key=_typed(override))
    return max(1, len(choices))


def _explain_sweep(override: Override) -> str:
    """Say how several values are meant where a run takes one."""
    key, _, value = _typed(override).partition("=")
    section, is_listed = key.partition(".")[0], "(" not in value
    ways = ["found several values, and a run takes one; -m runs a job for each"]
    if is_listed and section in GROUPS and key not in COMPONENTS:
        ways.append(f"a list is {key}=[{value}]")
    if is_listed and "." in key and section != "train":
        ways.append(_in_quotes(key, value))
    return ", ".join(ways)


def _holds_sweep(node: Any) -> bool:
    if isinstance(node, dict | list):
        return any(_holds_sweep(item) for item in (node.values() if isinstance(node, dict) else node))
    return isinstance(node, Sweep | Glob)


def _typed(override: Override) -> str:
    return as_typed(str(override.input_line))
