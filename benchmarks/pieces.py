"""`python -m benchmarks.pieces`: what each quick piece of the transformer buys, against the plain one in its place."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpt import adamw, batches
from benchmarks.handwritten import framework_network, update
from benchmarks.workloads import GPT, WORKLOADS, Plan
from framework_stax import attention, layers, normalization, transformer

PLAIN: Mapping[str, Sequence[tuple[Any, str, Callable[..., Any]]]] = {
    "linear": [(module, "linear", jnp.dot) for module in (layers, attention, transformer)],
    "gelu": [(transformer, "gelu", jax.nn.gelu)],
    "standardize": [(normalization, "standardize", lambda x, epsilon: jax.nn.standardize(x, epsilon=epsilon))],
    "softmax": [(attention, "softmax", jax.nn.softmax)],
}
"""By piece, which names in which modules stand for it, and what one would write instead."""

STEPS, ROUNDS = 20, 5


def main(pieces: Sequence[str]) -> None:
    """Print milliseconds a step of the character GPT, in one compiled loop, as it is and without each piece."""
    plan = Plan(steps=STEPS, warmup=0, window=STEPS, synthetic=0, batch_size=WORKLOADS["w4"].batch_size)
    taken = [batch for batch, _ in zip(batches(plan), range(STEPS), strict=False)]
    stacked = tuple(np.stack(part) for part in zip(*taken, strict=True))
    variants = {"as it is": [], **{f"plain {name}": [name] for name in pieces}, "all plain": list(pieces)}
    loops = {name: _compiled(without, plan, stacked) for name, without in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            began = time.perf_counter()
            jax.block_until_ready(loop())
            times[name].append((time.perf_counter() - began) / STEPS * 1000)
    best = statistics.median(times["as it is"])
    for name, values in times.items():
        print(f"{name:18s} {statistics.median(values):6.1f} ms a step, {statistics.median(values) / best:.2f} times")


def _compiled(without: Sequence[str], plan: Plan, stacked: Any) -> Callable[[], Any]:
    """The steps over all batches as one compiled function, traced with the plain functions in some pieces' place."""
    with ExitStack() as patches:
        for module, name, plain in (change for piece in without for change in PLAIN[piece]):
            patches.enter_context(patch.object(module, name, plain))
        init, apply = framework_network(WORKLOADS["w4"])
        optimizer = adamw(plan)

        def run(state: Any, stacked: Any) -> Any:
            return jax.lax.scan(partial(update, apply, optimizer), state, stacked)

        params = jax.jit(lambda key: init(key, (-1, GPT.block))[1])(jax.random.key(0))
        state = params, optimizer.init(params)
        program = jax.jit(run).lower(state, stacked).compile()
    return lambda: program(state, stacked)


if __name__ == "__main__":
    main(sys.argv[1:] or list(PLAIN))
