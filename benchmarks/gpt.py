"""A character GPT by hand: the network in plain jax.nn, a step loop, and a loop compiled as one."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.handwritten import Pair, update
from benchmarks.workloads import GPT, Marks, Plan


def find_text() -> Path | None:
    """The text of $FRAMEWORK_DATA, if it is there."""
    folders = [Path(root) / "text" for root in os.environ.get("FRAMEWORK_DATA", "").split(os.pathsep) if root]
    return next((found for folder in folders if (found := folder / "tinyshakespeare.txt").exists()), None)


def batches(plan: Plan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows from random places of the training part, int32 [B, block] each: inputs and targets, one ahead."""
    tokens, random = load(), np.random.default_rng(0)
    while True:
        windows = tokens[starts(tokens, plan, random)[:, None] + np.arange(GPT.block + 1)]
        yield windows[:, :-1].copy(), windows[:, 1:].copy()


def starts(tokens: np.ndarray, plan: Plan, random: np.random.Generator) -> np.ndarray:
    """Draw the first positions of a batch's windows."""
    return random.integers(len(tokens) - GPT.block, size=plan.batch_size, dtype=np.int32)


def load() -> np.ndarray:
    """The first nine tenths of the text, or of random characters where it is not there, as int32 from 1 on."""
    path = find_text()
    if path is None:
        return np.random.default_rng(0).integers(1, GPT.vocabulary, size=100_000, dtype=np.int32)
    text = path.read_text()
    text = text[: len(text) - round(len(text) / 10)]
    number = {character: i for i, character in enumerate(sorted(set(text)), start=1)}
    return np.array([number[character] for character in text], np.int32)


def plain_network() -> Pair:
    """GPT-2 without biases as one writes it with jax.nn; the head is the embedding table."""

    def init(key: jax.Array, in_shape: tuple[int, ...]) -> tuple[Any, Any]:
        keys = iter(jax.random.split(key, 2 + 4 * GPT.layers))
        into_stream = 0.02 / math.sqrt(2 * GPT.layers)
        normal = lambda *shape, stddev=0.02: stddev * jax.random.normal(next(keys), shape)  # noqa: E731
        C = GPT.width
        block = lambda: {  # noqa: E731
            "norm1": jnp.ones(C),
            "qkv": normal(C, 3 * C),
            "out": normal(C, C, stddev=into_stream),
            "norm2": jnp.ones(C),
            "wide": normal(C, 4 * C),
            "narrow": normal(4 * C, C, stddev=into_stream),
        }
        table, positions = normal(GPT.vocabulary, C), normal(GPT.block, C)
        blocks = [block() for _ in range(GPT.layers)]
        return None, {"table": table, "positions": positions, "blocks": blocks, "norm": jnp.ones(C)}

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        stream = params["table"][tokens] + params["positions"]
        for block in params["blocks"]:
            stream = stream + _attend(_norm(stream, block["norm1"]) @ block["qkv"]) @ block["out"]
            hidden = jax.nn.gelu(_norm(stream, block["norm2"]) @ block["wide"], approximate=False)
            stream = stream + hidden @ block["narrow"]
        return _norm(stream, params["norm"]) @ params["table"].T

    return init, apply


def _norm(x: jax.Array, gamma: jax.Array) -> jax.Array:
    return jax.nn.standardize(x, epsilon=1e-5) * gamma


def _attend(qkv: jax.Array) -> jax.Array:
    B, T, _ = qkv.shape
    query, key, value = jnp.split(qkv.reshape(B, T, 3 * GPT.heads, -1), 3, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(jnp.tri(T, dtype=bool), scores, -jnp.inf))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(B, T, -1)


def adamw(plan: Plan) -> optax.GradientTransformation:
    """Make the optimizer of nanoGPT: clipped gradients, and weight decay of matrices alone."""
    matrices = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    decaying = optax.adamw(plan.learning_rate, b2=0.99, weight_decay=0.1, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(1.0), decaying)


def step_loop(network: Pair, plan: Plan) -> Marks:
    """A jitted step with donated state, fed NumPy batches; losses stay on the device until the end."""
    init, apply = network
    optimizer = adamw(plan)
    train_step = jax.jit(partial(update, apply, optimizer), donate_argnums=0)
    state = _state(init, optimizer)
    marks, losses = [], []
    for step, batch in zip(range(1, plan.warmup + plan.steps + 1), batches(plan), strict=False):
        state, loss = train_step(state, batch)
        losses.append(loss)
        if step in (plan.warmup, plan.warmup + plan.steps):
            jax.block_until_ready(state)
            marks.append((step, time.monotonic()))
    assert np.isfinite(jax.device_get(losses)).all()
    return marks


def epoch_scan(network: Pair, plan: Plan) -> Marks:
    """As many steps as a trial has in one compiled loop; the text is on the device and gathered there."""
    init, apply = network
    optimizer, random, host = adamw(plan), np.random.default_rng(0), load()
    tokens = jax.device_put(host)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, tokens: jax.Array, places: jax.Array) -> tuple[Any, jax.Array]:
        def body(state: Any, first: jax.Array) -> tuple[Any, jax.Array]:
            windows = tokens[first[:, None] + jnp.arange(GPT.block + 1)]
            return update(apply, optimizer, state, (windows[:, :-1], windows[:, 1:]))

        return jax.lax.scan(body, state, places)

    state, marks, done = _state(init, optimizer), [], 0
    while done < 2 * plan.steps:
        places = np.stack([starts(host, plan, random) for _ in range(plan.steps)])
        state, losses = epoch(state, tokens, places)
        done += plan.steps
        assert np.isfinite(losses).all()
        marks.append((done, time.monotonic()))
    return marks


def _state(init: Any, optimizer: optax.GradientTransformation) -> Any:
    @jax.jit
    def make(key: jax.Array) -> Any:
        params = init(key, (-1, GPT.block))[1]
        return params, optimizer.init(params)

    return make(jax.random.key(0))
