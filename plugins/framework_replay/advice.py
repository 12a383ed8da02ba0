"""Advice on a number that is not finite, where it can be told what would have helped."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from framework.registry.sections import rates_of
from framework_replay.case import Case
from framework_replay.diagnosis import Diagnosis
from framework_replay.watching import Figures

GROWTH = 10.0
"""Growth of the norm of updates, against the median of the steps before, from which on the rate is too high."""

LARGE = 1e4
"""Size of weights or activations from which on the weights of the first step are told to be too large."""


class Rule(NamedTuple):
    """One piece of advice, and the condition under which it is given."""

    applies: Callable[[Case, Diagnosis], bool]
    text: Callable[[Case, Diagnosis], str]


def advise(case: Case, found: Diagnosis) -> list[str]:
    """Return what would have helped, the likeliest first."""
    told = [rule.text(case, found) for rule in RULES if rule.applies(case, found)]
    unknown = ["nothing is known of this operation; `--pdb` opens a debugger in it"]
    return told or ([] if found.operation is None else unknown)


def _made_by(*primitives: str) -> Callable[[Case, Diagnosis], bool]:
    return lambda case, found: found.operation is not None and found.operation.primitive in primitives


def _says(found: Diagnosis, *words: str) -> bool:
    """Tell whether the line, or a function on the way to it, has one of these words."""
    operation = found.operation
    text = "" if operation is None else " ".join([operation.code, *operation.functions[-6:]])
    return any(word in text for word in words)


def _is_root(case: Case, found: Diagnosis) -> bool:
    names = ("sqrt", "norm", "std")
    return found.direction == "backward" and (_made_by("rsqrt", "sqrt")(case, found) or _says(found, *names))


def _is_masked_row(case: Case, found: Diagnosis) -> bool:
    return found.direction == "forward" and _says(found, "softmax", "logsumexp") and _made_by("sub", "div")(case, found)


def _is_low_precision(case: Case, found: Diagnosis) -> bool:
    value = found.value
    return value is not None and value.dtype in ("float16", "bfloat16") and _overflows(case, found)


def _overflows(case: Case, found: Diagnosis) -> bool:
    operation = found.operation
    return operation is not None and operation.kind == "inf" and operation.primitive not in ("log", "log1p", "div")


def growth(case: Case) -> float:
    """Return the norm of the last update that was made, against the median of those before, or the parameters."""
    made = _made(case)
    norms = [entry["update"] for entry in made]
    if len(norms) < 2:
        return norms[0] / max(made[0]["params"], 1e-30) if norms else 0.0
    return norms[-1] / max(float(np.median(norms[:-1])), 1e-30)


def _made(case: Case) -> list[dict[str, float]]:
    """Return the norms of the updates before the step; that of a step which was undone is 0."""
    before = [entry for entry in case.facts.trail if entry["step"] < case.facts.step]
    return [entry for entry in before if np.isfinite(entry["update"])]


def _is_rate(case: Case, found: Diagnosis) -> bool:
    made = _made(case)
    is_large = any(entry["update"] > GROWTH * max(entry["params"], 1e-30) for entry in made)
    return found.first in ("loss", "gradient", "update") and bool(made) and (is_large or growth(case) > GROWTH)


def _is_grown(case: Case, found: Diagnosis) -> bool:
    """Tell whether numbers are large after updates whose norms are not known, as those of a member."""
    return (
        case.facts.step > 1 and not case.facts.trail and found.first in ("loss", "gradient") and _largest(found) > LARGE
    )


def _is_scale(case: Case, found: Diagnosis) -> bool:
    return case.facts.step == 1 and found.first in ("loss", "gradient") and _largest(found) > LARGE


def _largest(found: Diagnosis) -> float:
    """Return the size of the largest parameter or activation of the model."""
    seen = [each for each in found.watched.seen if each.direction == "forward" and each.path.startswith("model")]
    return max((max(abs(each.least), abs(each.most)) for each in seen), default=0.0)


def _targets(case: Case) -> tuple[int, str] | None:
    check = case.experiment.task.check
    return None if check is None else check(case.experiment.data.spec, _numpy(case))


def _numpy(case: Case) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in case.batch.items()}


def _count(examples: int) -> str:
    return f"{examples} example{'s' * (examples != 1)}"


def _value(found: Diagnosis) -> Figures:
    assert found.value is not None
    return found.value


RULES = (
    Rule(
        lambda case, found: found.first == "data",
        lambda case, found: (
            f"the inputs of {_count(len(_value(found).rows))} are not finite: repair them, or leave them out with "
            "data.exclude"
        ),
    ),
    Rule(
        lambda case, found: found.first == "state",
        lambda case, found: f"the parameters of {found.path} were not finite before the step: look at the model's init",
    ),
    Rule(
        lambda case, found: found.watched.beyond is not None,
        lambda case, found: f"an integer inside the model has no vector: {found.watched.beyond}; mend what makes it",
    ),
    Rule(
        lambda case, found: found.first == "loss" and _targets(case) is not None,
        lambda case, found: f"the targets do not fit the loss: {(_targets(case) or (0, ''))[1]}",
    ),
    Rule(
        _is_rate,
        lambda case, found: f"the updates grew {growth(case):.3g} times: lower {rates_of(case.experiment.config)}",
    ),
    Rule(
        _is_grown,
        lambda case, found: (
            f"weights or activations reach {_largest(found):.2g} at step {case.facts.step}: lower "
            f"{rates_of(case.experiment.config)}"
        ),
    ),
    Rule(
        _is_low_precision,
        lambda case, found: f"{_value(found).dtype} overflows: scale its inputs down, or compute it in float32",
    ),
    Rule(
        _is_scale,
        lambda case, found: (
            f"weights or activations reach {_largest(found):.2g} at the first step: give the layers smaller initial "
            "weights"
        ),
    ),
    Rule(_is_masked_row, lambda case, found: "a softmax has a row of -inf alone: mask with a large finite number"),
    Rule(
        lambda case, found: not _is_root(case, found) and _made_by("log", "log1p")(case, found),
        lambda case, found: "log of 0 or less: add a small number, or take a function of logits, as log_softmax is",
    ),
    Rule(_is_root, lambda case, found: "a root has no derivative at 0: add a small number below it"),
    Rule(
        lambda case, found: found.direction == "forward" and _made_by("rsqrt", "sqrt")(case, found),
        lambda case, found: "a root of 0 or less, such as the variance of a constant feature: add a small number to it",
    ),
    Rule(
        lambda case, found: _made_by("div", "rem")(case, found) and not _is_root(case, found),
        lambda case, found: "a division by 0: add a small number, or select the divisor with jnp.where before it",
    ),
    Rule(_made_by("exp", "exp2", "pow"), lambda case, found: "an exponential overflows: subtract the maximum first"),
    Rule(
        lambda case, found: _overflows(case, found) and _made_by("dot_general", "conv_general_dilated")(case, found),
        lambda case, found: "a product overflows: its inputs or weights are too large",
    ),
    Rule(
        lambda case, found: found.operation is not None and any("bwd" in name for name in found.operation.functions),
        lambda case, found: "the backward rule of a custom_vjp makes it",
    ),
    Rule(
        lambda case, found: found.path.endswith("optimizer") and found.first == "update",
        lambda case, found: "the gradients are finite, and the updates are not: look at the optimizer's options",
    ),
)
"""All advice that is known, the surest first."""
