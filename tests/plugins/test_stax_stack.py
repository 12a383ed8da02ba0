"""serial and parallel: the pytree of their parameters, their keys, their names, and what they say of failures."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.example_libraries import stax

from framework.api import Model, as_model
from framework.errors import ConfigError
from framework_stax.layers import BatchNorm, Conv, Dense, Dropout, MaxPool
from framework_stax.stack import Stack, named_parallel, named_serial, parallel, serial

IMAGES = (-1, 6, 6, 2)


def residual():
    """Every combinator, nested: a shortcut beside two layers with state and noise, summed and then doubled."""
    branch = serial(Conv(2, (3, 3), padding="SAME"), BatchNorm(), Dropout(0.5))
    block = [stax.FanOut(2), parallel(stax.Identity, branch), stax.FanInSum]
    return serial(
        *block, stax.FanOut(2), parallel(stax.Relu, MaxPool((1, 1))), stax.FanInConcat(-1), stax.Flatten, Dense(3)
    )


def paths(tree):
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)]


def test_paths_read_as_positions_and_names(key):
    out_shape, params, state = residual().init(key, IMAGES)
    assert out_shape == (-1, 3)
    assert paths(params) == [
        "1_parallel/1_serial/0_Conv/W",
        "1_parallel/1_serial/0_Conv/b",
        "1_parallel/1_serial/1_BatchNorm/beta",
        "1_parallel/1_serial/1_BatchNorm/gamma",
        "7_Dense/W",
        "7_Dense/b",
    ]
    assert paths(state) == [f"1_parallel/1_serial/1_BatchNorm/{name}" for name in ("mean", "variance", "weight")]


def test_nested_combinators_equal_stock_ones_on_the_same_parameters(key):
    """Stock parameters, plain lists and tuples, run in our stack as they are."""

    def layers(serial, parallel):
        branch = serial(stax.Dense(4), stax.Tanh)
        return serial(
            stax.FanOut(3),
            parallel(branch, stax.Identity, stax.Dense(4)),
            stax.FanInConcat(),
            stax.Dense(2),
            stax.LogSoftmax,
        )

    ours, stock = layers(serial, parallel), layers(stax.serial, stax.parallel)
    stock_shape, stock_params = stock[0](key, (-1, 4))
    out_shape, params, state = ours.init(key, (-1, 4))
    inputs = jax.random.normal(key, (5, 4))
    assert out_shape == stock_shape
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [leaf.shape for leaf in jax.tree.leaves(stock_params)]
    np.testing.assert_array_equal(ours.apply(stock_params, state, inputs)[0], stock[1](stock_params, inputs))
    np.testing.assert_array_equal(ours.apply(params, state, inputs)[0], stock[1](params, inputs))


def test_combinators_may_hold_ours_and_stock_ones_alike(key):
    model = residual()
    _, params, state = model.init(key, IMAGES)
    inputs = jax.random.normal(key, (4, *IMAGES[1:]))
    step = jax.jit(lambda p, s, x, k: model.apply(p, s, x, key=k, train=True))
    outputs, after = step(params, state, inputs, key)
    again, _ = step(params, state, inputs, jax.random.fold_in(key, 1))
    conv = params[1][1][0]
    branch = np.asarray(Conv(2, (3, 3), padding="SAME").apply(conv, (), inputs)[0])
    np.testing.assert_allclose(after[1][1][1].mean, branch.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    assert not np.allclose(outputs, again)  # Dropout, two stacks down, draws from the key
    still, same = model.apply(params, after, inputs)
    assert still.shape == (4, 3)
    jax.tree.map(np.testing.assert_array_equal, same, after)


class TestStack:
    stack = Stack(("0_Dense", "1_Relu", "2_Dense"), ((1.0, 2.0), (), (3.0,)))

    def test_is_a_sequence_with_names(self):
        assert (len(self.stack), self.stack[0], self.stack[-1], self.stack[1:]) == (3, (1.0, 2.0), (3.0,), ((), (3.0,)))
        assert list(self.stack) == [(1.0, 2.0), (), (3.0,)]
        assert self.stack["2_Dense"] == (3.0,)
        with pytest.raises(IndexError):
            self.stack[3]

    def test_is_immutable(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.stack.names = ()
        with pytest.raises(TypeError):
            self.stack[0] = ()

    def test_names_are_static_and_part_of_the_structure(self):
        leaves, structure = jax.tree.flatten(self.stack)
        assert leaves == [1.0, 2.0, 3.0]
        assert jax.tree.unflatten(structure, leaves).names == self.stack.names
        other = Stack(("0_Conv", "1_Relu", "2_Dense"), self.stack.entries)
        assert structure == jax.tree.structure(jax.tree.map(lambda x: -x, self.stack))
        assert structure != jax.tree.structure(other)
        assert hash(structure) == hash(jax.tree.structure(Stack(self.stack.names, self.stack.entries)))
        with pytest.raises(ValueError, match="0_Dense"):
            jax.tree.map(lambda x, y: x, self.stack, other)

    def test_passes_through_jit_donated_and_scan(self):
        arrays = jax.tree.map(jnp.float32, self.stack)
        double = jax.jit(lambda stack: jax.tree.map(lambda x: 2 * x, stack), donate_argnums=0)
        doubled = double(jax.tree.map(jnp.copy, arrays))
        scanned, _ = jax.lax.scan(lambda stack, _: (jax.tree.map(lambda x: 2 * x, stack), None), arrays, None, length=3)
        assert (doubled.names, doubled[2], scanned[0]) == (self.stack.names, (6.0,), (8.0, 16.0))

    def test_members_become_one_tree_and_part_again(self, key):
        model = serial(Dense(3), BatchNorm(), Dense(2))
        members = [model.init(k, (-1, 4))[1] for k in jax.random.split(key, 3)]
        outer, inner = jax.tree.structure([0, 0, 0]), jax.tree.structure(members[0])
        turned = jax.tree.transpose(outer, inner, members)
        together = jax.tree.map(jnp.stack, turned, is_leaf=lambda node: isinstance(node, list))
        assert together["0_Dense"].W.shape == (3, 4, 3)
        assert paths(together) == paths(members[0])
        inputs = jax.random.normal(key, (5, 4))
        state = model.init(key, (-1, 4))[2]
        mapped = jax.vmap(lambda params: model.apply(params, state, inputs)[0])(together)
        np.testing.assert_allclose(mapped[1], model.apply(members[1], state, inputs)[0], rtol=1e-5, atol=1e-6)
        back = jax.tree.transpose(inner, outer, turned)
        jax.tree.map(np.testing.assert_array_equal, back, members)


def noise():
    """A layer whose parameters and outputs are its keys; without a key, its outputs are its inputs."""

    def init(key, in_shape):
        return in_shape, jax.random.key_data(key), ()

    def apply(params, state, inputs, *, key=None, train=False):
        return (inputs if key is None else jax.random.key_data(key)), state

    return Model(init, apply)


def test_no_two_layers_share_a_key(key):
    branches = parallel(noise(), serial(noise()), noise())
    model = serial(noise(), stax.FanOut(3), branches, noise())
    _, params, _ = model.init(key, (-1, 2))
    drawn = [tuple(leaf.tolist()) for leaf in jax.tree.leaves(params)]
    assert len(set(drawn)) == len(drawn) == 5
    _, params, state = branches.init(key, [(-1, 2)] * 3)
    inputs = [jnp.zeros(2)] * 3
    outputs, _ = branches.apply(params, state, inputs, key=key)
    assert len({tuple(each.tolist()) for each in outputs}) == 3
    without, _ = branches.apply(params, state, inputs)
    assert all(each is given for each, given in zip(without, inputs, strict=True))


def test_keys_are_used_once(key):
    model = serial(Dense(3), Dropout(0.5), serial(Dense(3), Dropout(0.5)))
    with jax.debug_key_reuse(True):
        _, params, state = model.init(key, (-1, 4))
        model.apply(params, state, jnp.ones((2, 4)), key=jax.random.clone(key), train=True)


BARE = (lambda key, in_shape: (in_shape, ())), (lambda params, inputs: inputs)

NAMES = {
    "ours": (Conv(2, (3, 3)), "Conv"),
    "ours, nested": (serial(Dense(2)), "serial"),
    "by entry point": (named_serial([Dense(2)]), "serial"),
    "parallel by entry point": (named_parallel([Dense(2)]), "parallel"),
    "stock constant": (stax.Relu, "Relu"),
    "stock sum": (stax.FanInSum, "FanInSum"),
    "stock factory": (stax.Dense(2), "Dense"),
    "stock nested": (stax.serial(stax.Dense(2)), "serial"),
    "stock general": (stax.Conv(2, (3, 3)), "GeneralConv"),
    "stock pool": (stax.MaxPool((2, 2)), "PoolingLayer"),
    "lifted by name": (as_model(stax.Conv(2, (3, 3)), "Conv"), "Conv"),
    "nobody's": (BARE, "Layer"),
}


@pytest.mark.parametrize("case", NAMES)
def test_layers_are_named_after_their_factory(case, key):
    layer, name = NAMES[case]
    state = serial(layer).init(key, [IMAGES] if "parallel" in case else [(-1, 2)] * 2 if "sum" in case else IMAGES)[2]
    assert state.names == (f"0_{name}",)


def test_names_may_be_given(key):
    _, params, _ = serial(Dense(2), Dense(2), names=["encoder", "head"]).init(key, (-1, 2))
    assert params.names == ("0_encoder", "1_head")
    with pytest.raises(ConfigError, match="stack of 2 layers was given 1 names"):
        parallel(Dense(2), Dense(2), names=["one"])


@pytest.mark.parametrize(
    ("in_shape", "layers", "out_shape"),
    [
        ((-1, 6, 6, 2), [stax.Conv(3, (3, 3)), stax.MaxPool((2, 2), (2, 2)), stax.Flatten], (-1, 12)),
        ((np.int64(-1), np.int32(4)), [stax.Identity], (-1, 4)),
        ([-1, 4], [stax.Identity], (-1, 4)),
        ([(np.int64(-1), 4), (-1, 5)], [stax.FanInConcat()], (-1, 9)),
        ((-1, 4), [stax.FanOut(2), stax.parallel(stax.Identity, stax.Dense(3))], ((-1, 4), (-1, 3))),
        ({"a": (-1, 4), "b": (-1, 5)}, [stax.Identity], {"a": (-1, 4), "b": (-1, 5)}),
        ((8, 6, 6, 2), [stax.AvgPool((2, 2))], (8, 5, 5, 2)),
        ((-1, 4), [], (-1, 4)),
    ],
)
def test_shapes_are_plain_integers(in_shape, layers, out_shape, key):
    found, _, _ = serial(*layers).init(key, in_shape)
    assert found == out_shape
    if layers:
        assert {type(size) for size in jax.tree.leaves(found)} == {int}


FAILURES = {
    "ours": (
        [Dense(3), Conv(3, (5, 5))],
        (-1, 7),
        "layer 1_Conv cannot take inputs of shape (-1, 3): Conv with a window (5, 5) expects inputs [B, H, W, C]",
    ),
    "one number": (
        [Dense(3)],
        (-1,),
        "layer 0_Dense cannot take inputs of shape (-1,): Dense expects inputs [B, ..., features]; one number of an",
    ),
    "stock": ([stax.Conv(3, (3, 3))], (-1, 7), "layer 0_GeneralConv cannot take inputs of shape (-1, 7): IndexError: "),
    "nested": (
        [stax.FanOut(2), parallel(stax.Identity, serial(stax.Relu, MaxPool((9, 9)))), stax.FanInSum],
        IMAGES,
        "layer 1_parallel/1_serial/1_MaxPool cannot take inputs of shape (-1, 6, 6, 2): MaxPool has a window (9, 9)",
    ),
    "stock leaves nothing": (
        [stax.Conv(3, (9, 9))],
        IMAGES,
        "layer 0_GeneralConv cannot take inputs of shape (-1, 6, 6, 2): its outputs would be empty, of shape (-1, 0,",
    ),
    "no branches": (
        [parallel(stax.Identity, stax.Relu)],
        (-1, 2),
        "parallel has 2 layers, found one array; put FanOut: 2 before it.",
    ),
    "another number of branches": ([stax.FanOut(3), parallel(stax.Identity, stax.Relu)], (-1, 2), "found 3 inputs"),
    "fan-in of one": (
        [Dense(3), stax.FanInConcat()],
        (-1, 2),
        "layer 1_FanInConcat cannot take inputs of shape (-1, 3): Type",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_init_says_which_layer_fails_on_what(case, key):
    layers, in_shape, said = FAILURES[case]
    with pytest.raises(ConfigError) as refusal:
        serial(*layers).init(key, in_shape)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("layers", "inputs", "said"),
    [
        ([stax.Relu, Dense(3)], (2, 5), "layer 1_Dense cannot take inputs of shape (2, 5): TypeError: "),
        ([serial(Dense(3))], (2, 5), "layer 0_serial/0_Dense cannot take inputs of shape (2, 5): TypeError: "),
        ([Dropout(0.5)], (2, 4), "layer 0_Dropout cannot take inputs of shape (2, 4): Dropout draws noise in training"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_apply_says_which_layer_fails_on_what(layers, inputs, said, compiled, key):
    model = serial(*layers)
    _, params, state = model.init(key, (-1, 4))
    apply = lambda params, x: model.apply(params, state, x, train=True)  # noqa: E731
    with pytest.raises(ConfigError) as refusal:
        (jax.jit(apply) if compiled else apply)(params, jnp.ones(inputs))
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)
    assert refusal.value.__cause__ is not None


def test_a_nan_is_not_taken_for_a_shape_error(key):
    model = serial(stax.elementwise(jnp.log))
    _, params, state = model.init(key, (-1, 2))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        model.apply(params, state, -jnp.ones((1, 2)))


def test_refuses_what_is_not_a_layer():
    with pytest.raises(TypeError, match="expected a Model or a stax pair"):
        serial(Dense)


KINDS = {
    "Dense": lambda: Dense(4),
    "with state and noise": lambda: serial(Dense(4), BatchNorm(), Dropout(0.5)),
}


@pytest.mark.parametrize("width", [4, 5], ids=["keeps the shape", "changes it at first"])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_a_layer_given_several_times_equals_layers_of_its_kind(make, width, key):
    kind, inputs = make(), jax.random.normal(key, (8, width))
    results = []
    for model in (serial(kind, kind, kind), serial(make(), make(), make())):
        out_shape, params, state = model.init(key, (-1, width))

        def loss(params, model=model, state=state):
            outputs, after = model.apply(params, state, inputs, key=key, train=True)
            return (outputs**2).sum(), after

        results.append((out_shape, paths(params), params, state, jax.grad(loss, has_aux=True)(params)))
    (shape, names, params, state, steps), (alone_shape, alone_names, alone_params, alone_state, alone_steps) = results
    assert (shape, names) == (alone_shape, alone_names)
    jax.tree.map(np.testing.assert_array_equal, (params, state), (alone_params, alone_state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), steps, alone_steps)


def test_a_layer_given_several_times_is_traced_once_for_all(key):
    calls, dense = [], Dense(4)

    def apply(params, state, inputs, *, key=None, train=False):
        calls.append(inputs.shape)
        return dense.apply(params, state, inputs, key=key, train=train)

    model = serial(*[Model(dense.init, apply)] * 5)
    _, params, state = model.init(key, (-1, 4))
    jax.make_jaxpr(jax.grad(lambda params: model.apply(params, state, jnp.ones((2, 4)), train=True)[0].sum()))(params)
    assert calls == [(2, 4)]
