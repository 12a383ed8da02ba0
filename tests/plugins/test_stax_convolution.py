"""Convolution and maximum pool against what JAX computes and derives itself: values, gradients, and what composes."""

from __future__ import annotations

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.example_libraries import stax
from jax.test_util import check_grads

import framework
from framework.api import as_model
from framework.errors import ConfigError
from framework_stax import convolution, layers, stack
from framework_stax.activations import activation_layer
from framework_stax.convolution import convolve
from framework_stax.pooling import max_windows

LAYOUT = ("NHWC", "HWIO", "NHWC")

CASES = {  # inputs, kernel, strides
    "3×3": ((5, 7, 6, 3), (3, 3, 3, 4), (1, 1)),
    "5×5 of one channel": ((4, 9, 9, 1), (5, 5, 1, 3), (1, 1)),
    "1×1": ((4, 5, 4, 3), (1, 1, 3, 2), (1, 1)),
    "1×1 strided": ((3, 5, 4, 3), (1, 1, 3, 2), (2, 2)),
    "oblong": ((3, 6, 7, 2), (2, 3, 2, 3), (1, 1)),
    "strided": ((3, 8, 7, 2), (3, 3, 2, 3), (2, 2)),
    "unequal strides": ((3, 8, 7, 2), (3, 2, 2, 3), (2, 3)),
    "large strides": ((3, 9, 9, 2), (2, 2, 2, 3), (4, 3)),
    "7×7 strided": ((2, 15, 14, 3), (7, 7, 3, 4), (2, 2)),
    "one image": ((1, 6, 6, 2), (3, 3, 2, 3), (1, 1)),
}

POOLS = {  # inputs, window, strides
    "2×2": ((3, 6, 8, 2), (2, 2), (2, 2)),
    "odd sizes": ((3, 7, 5, 2), (2, 2), (2, 2)),
    "oblong": ((2, 6, 9, 2), (2, 3), (2, 3)),
    "sequences": ((3, 6, 2), (3,), (3,)),
    "volumes": ((2, 4, 4, 2, 2), (2, 2, 2), (2, 2, 2)),
    "large": ((1, 6, 7, 1), (6, 7), (6, 7)),
    "overlapping": ((2, 7, 7, 2), (3, 3), (2, 2)),
}


def plain(inputs, kernel, strides, padding):
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=LAYOUT)


def plain_pool(inputs, window, strides, padding):
    return lax.reduce_window(inputs, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding)


def draw(*shapes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def assert_close(ours, theirs, tolerance):
    """Within a share of the largest value."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


def gradients(function, arrays):
    """Of a function that is linear in no argument."""
    return jax.jit(jax.grad(lambda *args: jnp.sin(function(*args)).sum(), tuple(range(len(arrays)))))(*arrays)


@pytest.fixture(params=[2**23, 1], ids=["one tile", "a tile for each image"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(convolution, "TILE_BYTES", request.param)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("case", CASES)
def test_convolution_and_its_gradients_are_those_of_jax(case, padding):
    *shapes, strides = CASES[case]
    arrays = draw(*shapes)
    ours, theirs = (lambda x, w, f=f: f(x, w, strides, padding) for f in (convolve, plain))
    np.testing.assert_array_equal(ours(*arrays), theirs(*arrays))
    assert_close(gradients(ours, arrays), gradients(theirs, arrays), 1e-5)


def test_a_batch_of_tiles_and_a_rest(monkeypatch):
    shapes = (7, 6, 6, 2), (3, 3, 2, 3)
    monkeypatch.setattr(convolution, "TILE_BYTES", 3 * 16 * 18 * 4)  # three images of 4×4 positions
    arrays = draw(*shapes)
    ours, theirs = (lambda x, w, f=f: f(x, w, (1, 1), "VALID") for f in (convolve, plain))
    assert "length=2" in str(jax.make_jaxpr(jax.grad(lambda w: ours(arrays[0], w).sum()))(arrays[1]))
    assert_close(gradients(ours, arrays), gradients(theirs, arrays), 1e-5)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("case", ["3×3", "strided", "1×1"])
def test_derivatives_are_differences_forward_and_back_and_twice(case, padding):
    *shapes, strides = CASES[case]
    with jax.enable_x64(True):
        arrays = draw(*shapes, dtype=np.float64)
        ours = jax.jit(lambda x, w: jnp.sin(convolve(x, w, strides, padding)))
        check_grads(ours, arrays, 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", ["3×3", "strided"])
def test_few_bits_are_kept_and_sums_are_exact(case, dtype):
    *shapes, strides = CASES[case]
    arrays = draw(*shapes, dtype=dtype)
    exact = [array.astype(jnp.float32) for array in arrays]
    found = gradients(lambda x, w: convolve(x, w, strides, "SAME"), arrays)
    assert [grad.dtype for grad in found] == [dtype, dtype]
    assert_close(found, gradients(lambda x, w: plain(x, w, strides, "SAME"), exact), 8 * float(jnp.finfo(dtype).eps))


def test_composes_with_transformations():
    """Maps over members, inputs, devices; recomputing; derivatives of one argument only."""
    x, w, kernels = draw((4, 6, 6, 2), (3, 3, 2, 3), (2, 3, 3, 2, 3))
    ours, theirs = (jax.jit(lambda x, w, f=f: jnp.sin(f(x, w, (1, 1), "SAME")).sum()) for f in (convolve, plain))
    halves = x.reshape(2, 2, 6, 6, 2)
    for transform in (
        lambda f: jax.grad(f)(x, w),
        lambda f: jax.grad(f, 1)(x, w),
        lambda f: jax.grad(jax.checkpoint(f), (0, 1))(x, w),
        lambda f: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(x, kernels),
        lambda f: jax.vmap(jax.grad(f, (0, 1)))(halves, kernels),
        lambda f: jax.pmap(jax.grad(f, (0, 1)))(halves, kernels),
        lambda f: jax.jacfwd(f, 1)(x, w),
        lambda f: jax.hessian(f, 1)(x[:1, :3, :3], w[..., :1]),
    ):
        assert_close(transform(ours), transform(theirs), 2e-5)


def test_a_batch_laid_over_a_mesh_gives_what_one_device_gives():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, w = draw((4, 6, 6, 2), (3, 3, 2, 3))
    laid = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    ours = lambda x, w: convolve(x, w, (1, 1), "SAME")  # noqa: E731
    assert_close(gradients(ours, (laid, w)), gradients(ours, (x, w)), 1e-5)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("case", POOLS)
def test_pool_and_its_gradient_are_those_of_jax(case, padding):
    shape, window, strides = POOLS[case]
    arrays = draw(shape)
    ours, theirs = (lambda x, f=f: f(x, window, strides, padding) for f in (max_windows, plain_pool))
    np.testing.assert_array_equal(ours(*arrays), theirs(*arrays))
    assert_close(gradients(ours, arrays), gradients(theirs, arrays), 1e-6)
    with jax.enable_x64(True):
        check_grads(
            jax.jit(lambda x: jnp.sin(ours(x))), draw(shape, dtype=np.float64), 2, rtol=1e-5, atol=1e-5, eps=1e-6
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pool_gives_the_first_of_a_tie_the_gradient_as_stock_stax_does(dtype):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 6, 6, 2)), dtype)
    _, pool = stax.MaxPool((2, 2), strides=(2, 2))
    ours, theirs = (
        jax.grad(lambda x, f=f: (f(x) * f(x)).sum())
        for f in (lambda x: layers.MaxPool().apply((), (), x)[0], lambda x: pool((), x))
    )
    np.testing.assert_array_equal(ours(x), theirs(x))


def test_pool_of_windows_that_do_not_fit_is_refused():
    with pytest.raises(ConfigError, match="expects inputs"):
        max_windows(jnp.ones((3, 4)), (2, 2), (2, 2), "VALID")


def primitives(jaxpr):
    """The names of all operations of a program."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from primitives(inner)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint, jax.jit], ids=["as it is", "checkpoint", "jit"])
@pytest.mark.parametrize("case", ["3×3", "strided", "1×1"])
def test_what_is_differentiated_is_products_and_what_is_not_is_a_convolution(case, wrap):
    *shapes, strides = CASES[case]
    arrays = draw(*shapes)
    loss = lambda x, w: wrap(lambda x, w: convolve(x, w, strides, "SAME"))(x, w).sum()  # noqa: E731
    once, derived = (set(primitives(jax.make_jaxpr(f)(*arrays).jaxpr)) for f in (loss, jax.grad(loss, (0, 1))))
    assert "conv_general_dilated" in once
    assert "dot_general" in derived
    assert "conv_general_dilated" not in derived


BLOCKS = {  # of a stack, what follows its convolution
    "pool, relu": [lambda: layers.MaxPool(), lambda: stax.Relu],
    "relu, average, gelu": [
        lambda: stax.Relu,
        lambda: layers.AvgPool((2, 1), padding="SAME"),
        lambda: activation_layer("gelu"),
    ],
    "a second convolution": [lambda: layers.MaxPool(), lambda: layers.Conv(2, (2, 2), strides=(2, 1))],
    "what sees the batch": [lambda: layers.BatchNorm(), lambda: stax.Relu, lambda: layers.MaxPool()],
}


@pytest.mark.parametrize(("case", "batch"), [("pool, relu", 16), *zip(BLOCKS, (21, 7, 21, 16), strict=True)])
def test_a_stack_in_tiles_gives_what_its_layers_give_one_by_one(case, batch):
    made = [layers.Conv(3, (3, 3), padding="SAME"), *(make() for make in BLOCKS[case])]
    tiled = stack.serial(*made)
    _, params, state = tiled.init(jax.random.key(0), (-1, 8, 8, 2))
    (inputs,) = draw((batch, 8, 8, 2))

    def one_by_one(params, inputs):
        after = []
        for layer, own, kept in zip(map(as_model, made), params, state, strict=True):
            inputs, kept = layer.apply(own, kept, inputs, train=True)
            after.append(kept)
        return inputs, after

    def together(params, inputs):
        outputs, after = tiled.apply(params, state, inputs, train=True)
        return outputs, list(after)

    def derived(function):
        def loss(params, inputs):
            outputs, after = function(params, inputs)
            return jnp.sin(outputs).sum(), (outputs, after)

        grads = jax.grad(loss, (0, 1), has_aux=True)
        members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
        return jax.jit(lambda p, m, x: (grads(p, x), jax.vmap(grads, (0, None))(m, x)))(params, members, inputs)

    assert_close(derived(together), derived(one_by_one), 5e-5)


@pytest.mark.parametrize("nans", [False, True])
def test_tiles_are_one_loop_unless_nans_are_looked_for(nans):
    model = stack.serial(layers.Conv(3, (3, 3)), layers.MaxPool(), stax.Relu)
    _, params, state = model.init(jax.random.key(0), (-1, 8, 8, 2))
    with jax.debug_nans(nans):
        program = jax.make_jaxpr(lambda x: model.apply(params, state, x)[0])(jnp.ones((16, 8, 8, 2)))
    assert ("scan" in set(primitives(program.jaxpr))) != nans


@pytest.mark.parametrize(
    ("conv", "said"), [("Conv", "steps_per_call: 50"), ("stax.Conv", "steps_per_call: 1, since a convolution")]
)
def test_networks_of_our_convolutions_run_in_chunks_and_stock_ones_do_not(conv, said, tmp_path):
    network = f"[{{{conv}: {{out_chan: 2, filter_shape: [3, 3]}}}}, MaxPool, Relu, Flatten, {{Dense: 10}}]"
    words = ["data=synthetic", "data.examples=40", "data.shape=[8,8,1]", "data.batch_size=10", "train.steps=3"]
    framework.run([*words, "model=serial", f"model.layers={network}", "callbacks=[]", f"run.dir={tmp_path}/run"])
    assert said in (tmp_path / "run" / "run.log").read_text()
