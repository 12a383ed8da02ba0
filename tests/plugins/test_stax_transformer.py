"""The language model: its logits against a plain one, its shapes and options, and that it learns."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import framework
from framework.errors import ConfigError
from framework_losses.losses import softmax_cross_entropy
from framework_losses.metrics import accuracy, perplexity
from framework_stax.transformer import transformer

SIZES = {"vocabulary": 11, "context": 6, "layers": 2, "heads": 2, "width": 8}


def plain(params, tokens, tied):
    """GPT-2 without biases, as one writes it with jax.nn."""
    body = params.body if tied else params[1:-1]
    table = params.embedding.W if tied else params[0].W

    def norm(x, gamma):
        return jax.nn.standardize(x, epsilon=1e-5) * gamma

    def attend(qkv):
        parts = jnp.split(qkv, 3, axis=-1)
        heads = (part.reshape(*part.shape[:2], SIZES["heads"], -1) for part in parts)
        return jax.nn.dot_product_attention(*heads, is_causal=True).reshape(parts[0].shape)

    x = table[tokens] + body[0].W[: tokens.shape[1]]
    for attention, perceptron in body[2:-1]:
        x = x + attend(norm(x, attention[0].gamma) @ attention[1].qkv.W) @ attention[1].out.W
        hidden = norm(x, perceptron[0].gamma) @ perceptron[1].W
        x = x + jax.nn.gelu(hidden, approximate=False) @ perceptron[3].W
    x = norm(x, body[-1].gamma)
    return x @ table.T if tied else x @ params[-1].W


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def made(request, key):
    """A model, whether it is tied, parameters large enough to matter, and tokens."""
    model = transformer(**SIZES, tied=request.param)
    params, state = jax.jit(lambda key: model.init(key, (-1, 6))[1:])(key)
    params = jax.tree.map(lambda leaf: 10 * leaf if leaf.ndim > 1 else leaf, params)
    return model, request.param, params, state, jax.random.randint(key, (3, 6), 0, 11)


def test_logits_and_gradients_are_those_of_a_plain_one(made):
    model, tied, params, state, tokens = made
    ours = jax.jit(lambda p: model.apply(p, state, tokens)[0])
    np.testing.assert_allclose(ours(params), plain(params, tokens, tied), rtol=1e-4, atol=1e-4)
    grads, expected = (
        jax.jit(jax.grad(lambda p, f=f: jnp.sin(f(p)).sum()))(params) for f in (ours, lambda p: plain(p, tokens, tied))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), grads, expected)


def test_shapes_names_and_initial_loss(key):
    model = transformer(**SIZES)
    out_shape, params, state = model.init(key, (-1, 6))
    assert out_shape == (-1, 6, 11)
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)}
    assert {"embedding/W", "body/0_positions/W", "body/2_block_0/0_Residual/1_SelfAttention/qkv/W"} <= paths
    logits, _ = model.apply(params, state, jnp.zeros((2, 4), jnp.int32))
    assert logits.shape == (2, 4, 11)
    assert abs(jax.nn.log_softmax(logits)).mean() == pytest.approx(math.log(11), rel=0.01)


def test_losses_and_metrics_of_sequences_are_means_over_positions(key):
    logits, targets = jax.random.normal(key, (3, 5, 7)), jax.random.randint(key, (3, 5), 0, 7)
    batch = {"targets": targets}
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    picked = np.take_along_axis(np.asarray(probabilities), np.asarray(targets)[..., None], -1)[..., 0]
    values = softmax_cross_entropy()(logits, batch)
    np.testing.assert_allclose(values, -np.log(picked).mean(1), rtol=1e-5)
    np.testing.assert_allclose(accuracy().values(logits, batch), (logits.argmax(-1) == targets).mean(1), rtol=1e-6)
    metric = perplexity()
    total = metric.values(logits, batch).sum()
    assert metric.result(total, 3.0) == pytest.approx(np.exp(-np.log(picked).mean()), rel=1e-5)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"width 8 is not a multiple of heads 3; set model\.width=9"):
        transformer(**{**SIZES, "heads": 3})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rhyme.txt"
    path.write_text("one fish two fish red fish blue fish\n" * 60)
    return path


TINY = ["+experiment=char_gpt", "model.layers=1", "model.width=16", "data.block=16", "data.vocabulary=32"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["strategy=sharded", "model.dropout=0.1", "model.tied=false"],
        ["strategy=pmap", "precision=bfloat16"],
        ["strategy=vmapped", "strategy.members=2", "train.steps=4"],
    ],
    ids=["jit", "sharded", "pmap", "vmapped"],
)
def test_it_trains_under_every_strategy(file, tmp_path, options):
    words = [*TINY, f"data.path={file}", "train.steps=8", "callbacks=[checkpoint]", f"run.dir={tmp_path}/run", *options]
    result = framework.run(words)
    assert np.isfinite(result.metrics["eval/loss"])


def test_it_learns_a_rhyme_and_writes_it_down(file, tmp_path):
    """As the README of the experiment says: by the record alone, one character after the other."""
    words = [*TINY, f"data.path={file}", "model.width=32", "optimizer.learning_rate=0.01", "train.steps=150"]
    result = framework.run([*words, "callbacks=[checkpoint]", f"run.dir={tmp_path}/run"])
    assert result.metrics["eval/loss"] < 0.2
    file.rename(tmp_path / "elsewhere.txt")
    try:
        model = framework.load(result.directory)
    finally:
        (tmp_path / "elsewhere.txt").rename(file)
    characters, block = model.facts["characters"], model.config["data"]["block"]
    numbers = [characters.index(character) for character in "one fish "]
    for _ in range(8):
        window = np.zeros((1, block), np.int32)
        last = numbers[-block:]
        window[0, : len(last)] = last
        numbers.append(int(model(window)[0, len(last) - 1].argmax()))
    assert "".join(characters[number] for number in numbers) == "one fish two fish"
