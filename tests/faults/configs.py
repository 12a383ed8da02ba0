"""Bad configs: sixty that people write (C1), and random mutations of good ones (C2). None may run, none may crash.

By hand: `python -m tests.faults C1 C2`.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from framework.commands import cli
from framework.config.compose import compose

SMALL = ("data=digits", "callbacks=[]")
HEADER = "# @package _global_\n"


class Case(NamedTuple):
    """A config that is refused.

    Attributes:
      words: the command line; `{file}` in it chooses the file as an experiment.
      key: what the line must name.
      hint: the name that it must suggest, if one was misspelt.
      text: of the file `experiment/case.yaml` in a folder of one's own; the origin is this file if there is one.
      line: of that file in which the key stands; 0 if only the file must be named.
    """

    words: tuple[str, ...]
    key: str
    hint: str = ""
    text: str = ""
    line: int = 0


def _words(*words: str, key: str, hint: str = "") -> Case:
    return Case(words, key, hint)


def _file(text: str, key: str, line: int, hint: str = "", header: str = HEADER) -> Case:
    return Case((), key, hint, header + text, line)


CASES = (
    # unknown keys
    _words("train.stepz=3", key="train.stepz", hint="steps"),
    _words("+train.stepz=3", key="train.stepz", hint="steps"),
    _words("++train.epoch=3", key="train.epoch", hint="epochs"),
    _words("sede=1", key="sede", hint="seed"),
    _words("+sede=1", key="sede", hint="seed"),
    _words("modle=mlp", key="modle", hint="model"),
    _words("optimzer=adam", key="optimzer", hint="optimizer"),
    _words("run.rot=x", key="run.rot", hint="root"),
    _words("Seed=1", key="Seed", hint="seed"),
    _words("model.hiden=[3]", key="model.hiden", hint="hidden"),
    _words("optimizer.learning_rte=1", key="optimizer.learning_rte", hint="learning_rate"),
    _words("data.bach_size=3", key="data.bach_size", hint="batch_size"),
    _words("strategy.memers=3", key="strategy.memers", hint=""),
    _words("nan_polcy=stop", key="nan_polcy", hint="nan_policy"),
    _file("train: {stepz: 3}\n", "train.stepz", 2, "steps"),
    _file("seed: 1\ntrain:\n  steps: 2\n  log_evry: 3\n", "train.log_evry", 5, "log_every"),
    _file("sede: 1\n", "sede", 2, "seed"),
    _file("model:\n  hiden: [3]\n", "model.hiden", 3, "hidden"),
    _file("optimizer: {b3: 0.9}\n", "optimizer.b3", 2, "b2"),
    # unknown names
    _words("model=mlpp", key="model=mlpp", hint="mlp"),
    _words("model=MLP", key="model=MLP", hint="mlp"),
    _words("model.name=mlpp", key="model.name", hint="mlp"),
    _words("loss=softmax_cross_entrpy", key="loss", hint="softmax_cross_entropy"),
    _words("optimizer=adm", key="optimizer=adm", hint="adam"),
    _words("metrics=[acuracy]", key="metrics=acuracy", hint="accuracy"),
    _words("metrics+=acuracy", key="metrics.acuracy", hint="accuracy"),
    _words("data=digts", key="data=digts", hint="digits"),
    _words("debug=nan", key="debug=nan", hint="nans"),
    _words("+experiment=mnst", key="experiment=mnst", hint="mnist"),
    _words("experiment=mnist", key="experiment"),
    _words("trian", key="trian", hint="train"),
    _file("defaults:\n  - override /model: mlpp\n", "model=mlpp", 3, "mlp"),
    _file("defaults:\n  - override /modle: mlp\n", "modle", 3, "model"),
    _file("extend:\n  metrics: [perplexty]\n", "metrics.perplexty", 3, "perplexity"),
    # wrong types and ranges
    _words("train.steps=many", key="train.steps"),
    _words("train.steps=0", key="train.steps"),
    _words("train.log_every=-1", key="train.log_every"),
    _words("train=3", key="train"),
    _words("seed=-1", key="seed"),
    _words("seed=1.5", key="seed"),
    _words("ema=2", key="ema"),
    _words("precision=float23", key="precision", hint="float32"),
    _words("nan_policy=stopp", key="nan_policy", hint="stop"),
    _words("model.hidden=many", key="model.hidden"),
    _words("data.batch_size=0", key="batch_size"),
    _words("data.batch_size=true", key="data.batch_size"),
    _words("run.name=../x", key="run.name"),
    _words("model=null", key="model=null"),
    _words("~model", key="model"),
    _file("train:\n  steps: [1]\n", "train.steps", 3),
    _file("model: mlp\n", "model", 2),
    _file("seed: 1\ntrain: 3\n", "train", 3),
    # grammar, interpolations, files
    _words("train.steps=[1", key="train.steps"),
    _words("seed=1,2", key="seed=1,2"),
    _words("--hlep", key="--hlep"),
    _words("model.hidden=${train.setps}", key="model.hidden"),
    _file("seed: ${sed}\n", "seed", 2),
    _file("seed: ${ema}\nema: ${seed}\n", "seed", 2),
    _file("seed: 1\nseed: 2\n", "seed", 3),
    _file("train:\n\tsteps: 3\n", "", 3),
)
"""Sixty: what is wrong with each is in its words or its text."""


class Outcome(NamedTuple):
    """The end of one config's run."""

    code: int
    line: str  # stderr, if it was one line
    seconds: float
    fault: str  # what is wrong with the refusal, or ""


def call(words: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command and what it wrote to stderr."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(list(words))
        except SystemExit as stop:
            return (stop.code if isinstance(stop.code, int) else 1 if stop.code else 0), err.getvalue()
    return 0, err.getvalue()


def refuse(case: Case, folder: Path) -> Outcome:
    """Run a case in a folder and say what is wrong with its refusal."""
    words = [*SMALL, *case.words] if case.words and "=" in case.words[0] else list(case.words)
    if case.text:
        (folder / "experiment").mkdir(exist_ok=True)
        (folder / "experiment" / "case.yaml").write_text(case.text)
        words = ["--config-dir", str(folder), "+experiment=case", *SMALL]
    began = time.perf_counter()
    code, err = call(words)
    seconds, line = time.perf_counter() - began, err.strip()
    origin = "case.yaml:" + (str(case.line) if case.line else "") if case.text else "command line"
    faults = {
        f"exit code {code}": code != 2,
        "not one line": "\n" in line or not line.startswith("error["),
        f"does not name {case.key}": case.key not in line,
        f"does not suggest {case.hint}": bool(case.hint) and f"Did you mean '{case.hint}'?" not in line,
        f"does not say {origin}": origin not in line and case.words[:1] not in (("trian",), ("--hlep",)),
    }
    return Outcome(code, line, seconds, "; ".join(fault for fault, is_so in faults.items() if is_so))


GOOD = (
    "seed: 3\ntrain: {steps: 4, eval_every: 2}\nmodel: {name: mlp, hidden: [8, 4]}\n",
    "defaults:\n  - override /model: cnn\n  - override /schedule: cosine\ntrain:\n  steps: 10\n",
    "defaults: [override /metrics: [accuracy, perplexity]]\nextend: {metrics: [{top_k_accuracy: {k: 3}}]}\n",
    "model:\n  name: serial\n  layers:\n    - Flatten\n    - {Dense: 8}\n    - Relu\n    - {Dense: 10}\n",
    "optimizer: {name: adamw, weight_decay: 0.1}\nschedule: {name: constant}\nema: 0.9\nrun: {name: mine}\n",
    "data: {batch_size: 16, transform: [{random_shift: {pixels: 1}}]}\nseed: ${train.steps}\ntrain: {steps: 2}\n",
)
"""Experiments that compose, from which mutations start."""

TOKENS = (
    "null",
    "[]",
    "{}",
    "-1",
    "1e999",
    "${seed}",
    "${",
    "${a:b}",
    "&a",
    "*a",
    "!!set",
    "<<: ",
    "'",
    '"',
    "\t",
    "\x07",
)
TOKENS += (
    "_target_: os.system",
    "hydra:",
    "- ",
    ": ",
    "🦀",
    "\u202e",
    "???",
    "|",
    "%",
    "---\n",
    "[" * 80,
    "9" * 5000,
    "~",
)


def mutate(text: str, random_: random.Random) -> str:
    """Change a text in one to four places: characters, lines, tokens, doubled or cut parts."""
    for _ in range(random_.randint(1, 4)):
        lines = text.splitlines(keepends=True) or [""]
        at, line = random_.randrange(len(text) + 1), random_.randrange(len(lines))
        change = random_.randrange(7)
        if change == 0:
            text = text[:at] + random_.choice(TOKENS) + text[at:]
        elif change == 1:
            text = text[:at] + text[at + random_.randint(1, 6) :]
        elif change == 2:
            text = text[:at] + chr(random_.choice([*range(1, 128), 0xE9, 0x2028, 0x1F600])) + text[at + 1 :]
        elif change == 3:
            text = "".join([*lines[:line], lines[line], *lines[line:]])
        elif change == 4:
            text = "".join([*lines[:line], "  " + lines[line], *lines[line + 1 :]])
        elif change == 5:
            words = re.findall(r"\w+", text) or ["x"]
            text = text.replace(random_.choice(words), random_.choice([*words, *TOKENS]), 1)
        else:
            text = text[:at]
    return text


def mutations(seed: int, count: int) -> Iterator[tuple[int, str]]:
    """Numbered texts; the one of a number depends on it and the seed alone."""
    for number in range(count):
        source = random.Random(f"{seed}/{number}")
        yield number, HEADER + mutate(source.choice(GOOD), source)


def compose_mutation(text: str, folder: Path, by_command: bool = False) -> str:
    """Compose a mutated file and read the core's settings, as a run does before it imports JAX.

    By a command, the origin of what is wrong is looked up too, which takes several times as long.

    Returns: what is wrong with the way it ended, or "".
    """
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "case.yaml").write_text(text, errors="surrogatepass")
    began = time.process_time()
    code, err = _settings(folder)
    if by_command and code in (0, 2):
        code, err = call(["--config-dir", str(folder), "--cfg", "job", "+experiment=case", *SMALL])
    seconds = time.process_time() - began
    if code not in (0, 2) or "Traceback" in err or (code and err.count("\n") != 1):
        return f"exit code {code}: {err.strip()[-300:]}"
    return f"{seconds:.1f} s" if seconds > 20 else ""


def _settings(folder: Path) -> tuple[int, str]:
    from framework.errors import FrameworkError

    try:
        compose(["+experiment=case", *SMALL], folder)
    except FrameworkError as error:
        return error.exit_code, f"{error}\n"
    except Exception as error:
        return 1, f"{type(error).__name__}: {error}"
    return 0, ""


def bombs() -> dict[str, str]:
    """Small or flat files that would take all memory or time if they were expanded."""
    doubled = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    merged = "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))
    chained = "".join(f"c{i}: ${{c{i - 1}}}${{c{i - 1}}}\n" for i in range(1, 40))
    through = "".join(f"l{i}: {{x: '${{p{i - 1}.x}}${{p{i - 1}.x}}'}}\np{i}: ${{l{i}}}\n" for i in range(1, 40))
    return {
        "aliases": "a0: &a0 [x, x]\n" + doubled,
        "an alias of itself": "a: &a [*a]\n",
        "merge keys": "m0: &m0 {k: 1}\n" + merged,
        "interpolations": "c0: x\n" + chained,
        "interpolated interpolations": "l0: {x: y}\np0: ${l0}\n" + through,
        "a chain of interpolations": "".join(f"d{i}: ${{d{i + 1}}}\n" for i in range(3000)),
        "nested lists": "a: " + "[" * 50_000,
        "nested mappings": "".join(f"{' ' * i}k:\n" for i in range(1000)),
        "nested interpolations": "a: " + "${" * 3000 + "}" * 3000 + "\n",
        "a large text": "a: " + "x" * 10_000_000 + "\n",
        "many keys": "".join(f"k{i}: {i}\n" for i in range(60_000)),
        "a long number": f"seed: {'9' * 9000}\n",
        "sixties": "seed: 1" + ":1" * 4000 + "\n",
        "a date": "a: !!timestamp 2001-01-01\n",
        "a Python object": "a: !!python/object/apply:os.system [ls]\n",
    }
