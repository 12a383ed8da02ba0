"""R6: the same run twice has the same bits, on one core or two; on other numbers of devices, the same to rounding."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import numpy as np

from tests.faults import sabotage
from tests.faults.processes import fork
from tests.faults.runs import leaves_of, log_of, state_digest, tail, words_of
from tests.faults.trials import Draws, Outcome

REPEATS = {1: 2, 2: 20, 3: 200}
DEVICES = {1: (1, 2), 2: (1, 2, 4, 8), 3: (1, 2, 4, 8)}
STEPS = 200
TOLERANCE = 1e-5
"""Relative L2 distance of all parameters; sums over devices round in another order."""

MODELS = {
    "mlp with dropout": ["model=mlp", "model.hidden=[16]", "model.dropout=0.25"],
    "cnn": ["model=cnn", "model.channels=[4]", "model.kernel=3", "model.hidden=8", "model.dropout=0"],
    "batch norm": [
        "model=serial",
        "model.layers=[Flatten, {Dense: {out_dim: 16, bias: false}}, BatchNorm, Relu, {Dense: {out_dim: 5}}]",
    ],
}


def determinism(tier: int, draws: Draws) -> Outcome:
    """R6."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        count, unequal = _repeats(work, draws, REPEATS[tier])
        compared, apart, worst = _devices(work, DEVICES[tier], tier) if draws.only is None else (0, [], "")
        figures = [f"{count} repeats against the first run of each model, half of them on one core"]
        figures += [worst] if worst else []
        problems = [*unequal, *apart]
        return Outcome(count + compared, len(problems), (*figures, *problems))


def _words(work: Path, model: str) -> list[str]:
    """The run with another model, and without an early end."""
    words = [word for word in words_of(work) if not word.startswith(("model", "callbacks+=", "train.steps"))]
    return [*words, *MODELS[model], f"train.steps={STEPS}"]


def _repeats(work: Path, draws: Draws, wanted: int) -> tuple[int, list[str]]:
    names = list(MODELS)[:2]
    first = {name: _run(work, f"first {name}", _words(work, name)) for name in names}
    problems, count = [], 0
    for index, generator in draws.trials(wanted):
        name = names[index % len(names)]
        cores = _one_core(generator) if index % 4 < 2 else bool
        found = _run(work, f"repeat {index}", _words(work, name), prepare=cores)
        count += 1
        unequal = [what for what in ("state", "log") if found[what] != first[name][what]]
        problems += [f"{name}: the {what} differs  [{draws.replay(index)}]" for what in unequal]
    return count, problems


def _one_core(generator: random.Random):
    core = generator.choice(sorted(os.sched_getaffinity(0)))
    return lambda: os.sched_setaffinity(0, {core})


def _devices(work: Path, counts: tuple[int, ...], tier: int) -> tuple[int, list[str], str]:
    """The parameters after some hundred steps on other numbers of devices; noise is of a device, so there is none."""
    problems, worst, compared = [], 0.0, 0
    for model in list(MODELS)[: 1 if tier == 1 else 3]:
        for strategy in ("pmap", "sharded"):
            words = [word for word in _words(work, model) if not word.startswith("data.transform")]
            words += [f"strategy={strategy}"] + (["model.dropout=0"] if model.startswith("mlp") else [])
            runs = {
                count: _run(
                    work,
                    f"{model} {strategy} {count}",
                    words,
                    {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"},
                )
                for count in counts
            }
            for count in counts[1:]:
                distance = _distance(runs[counts[0]]["params"], runs[count]["params"])
                worst, compared = max(worst, distance), compared + 1
                if distance > TOLERANCE:
                    problems.append(f"{model}, {strategy}: {distance:.1e} apart on {count} devices")
                if runs[count]["rows"] != runs[counts[0]]["rows"]:
                    problems.append(f"{model}, {strategy}: other examples on {count} devices")
    text = f"{compared} comparisons of {', '.join(map(str, counts))} devices: at most {worst:.1e} after {STEPS} steps"
    return compared, problems, text


def _run(work: Path, name: str, words: list[str], environment=None, prepare=bool) -> dict:
    folder, errors, rows = work / name / "run", work / name / "err", work / name / "rows"
    folder.parent.mkdir()

    def prepared() -> None:
        prepare()
        sabotage.log_rows(rows)

    code = fork([*words, f"run.dir={folder}"], errors, environment, prepared).wait()
    if code != 0:
        raise SystemExit(f"{name} ended with {code}: {tail(errors)}")
    return {
        "state": state_digest(folder, STEPS),
        "log": log_of(folder),
        "params": leaves_of(folder, STEPS),
        "rows": sorted(rows.read_text().splitlines()),
    }


def _distance(mine: dict[str, bytes], theirs: dict[str, bytes]) -> float:
    """Of all parameters together, relative to their length."""
    names = sorted(name for name in mine if name.startswith("params/"))
    a, b = (np.concatenate([np.frombuffer(leaves[n], np.float32) for n in names]) for leaves in (mine, theirs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))
