"""Every optimizer and transformation that the catalogue finds, held against optax itself."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from framework.errors import ConfigError
from framework_optax import triples
from framework_optax.chain import chain
from framework_optax.optimizers import UNFIT, catalogue

FACTORIES = catalogue()
REQUIRED = {
    "learning_rate": 0.05,
    "clipping": 0.5,
    "eta": 0.01,
    "gamma": 0.5,
    "max_delta": 0.5,
    "threshold": 0.5,
    "max_norm": 1.0,
    "decay": 0.9,
    "mask": "*/W",
    "step_size": -0.1,
}
COMMON = ["adadelta", "adafactor", "adagrad", "adam", "adamw", "adan", "amsgrad", "fromage", "lamb", "lars", "lion"]
COMMON += ["nadam", "noisy_sgd", "novograd", "radam", "rmsprop", "rprop", "sgd", "sign_sgd", "sm3", "yogi"]
COMMON += ["dog", "galore", "muon", "prodigy"]  # of optax.contrib
COMMON += ["adaptive_grad_clip", "add_decayed_weights", "add_noise", "clip", "clip_by_block_rms", "clip_by_global_norm"]
COMMON += ["ema", "scale", "scale_by_adam", "scale_by_learning_rate", "scale_by_sm3", "trace"]
"""One of each family, which every change is held against; the others are slow tests."""
NAMES = [name if name in COMMON else pytest.param(name, marks=pytest.mark.slow) for name in FACTORIES]
PARAMS = {"0_Dense": {"W": jnp.array([[1.0, -2.0], [0.5, 0.25], [3.0, 1.5]]), "b": jnp.array([-1.0, 0.75])}}
MATRIX = {"0_Dense": {"W": PARAMS["0_Dense"]["W"]}}  # one leaf compiles in half the time of two
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
NOT_TRACED = {("scale_by_sm3", "b2")}


def options_of(name):
    """Return the required options of a factory, and its numbers, which may be traced."""
    parameters = inspect.signature(FACTORIES[name]).parameters
    needed = {key: REQUIRED[key] for key, parameter in parameters.items() if parameter.default is parameter.empty}
    every = {key: needed.get(key, parameter.default) for key, parameter in parameters.items()}
    numbers = {key: value for key, value in every.items() if isinstance(value, float) and (name, key) not in NOT_TRACED}
    return needed, numbers


def reference(name, options):
    function = getattr(optax, name, None) or getattr(optax.contrib, name)
    if "key" in inspect.signature(function).parameters:
        options = {"key": 0} | options
    if "mask" in options:
        options = options | {"mask": {"0_Dense": {"W": True}}}
    return function(**options)


def objective(params):
    return sum(0.5 * jnp.square(leaf - 0.1).sum() for leaf in jax.tree.leaves(params))


def descend(optimizer, steps=12):
    def body(_, carry):
        params, state = carry
        updates, state = optimizer.update(jax.grad(objective)(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, body, (MATRIX, optimizer.init(MATRIX)))[0]


@pytest.mark.parametrize("name", NAMES)
def test_equals_optax_with_every_number_traced(name):
    needed, numbers = options_of(name)
    lower = {key: 0.9 * value for key, value in numbers.items()}
    lanes = {"lane": jnp.arange(2)} | {key: jnp.array([value, lower[key]]) for key, value in numbers.items()}

    def both(lanes):
        found = jax.vmap(lambda given: descend(FACTORIES[name](**needed | {key: given[key] for key in numbers})))(lanes)
        with jax.numpy_dtype_promotion("standard"):
            return found, descend(reference(name, needed | lower))

    found, wanted = jax.jit(both, compiler_options=QUICK)(lanes)
    # A hyper-parameter in the state is a float32: 1 - 0.999 differs from it in the fifth digit.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-5), found, wanted)
    if "learning_rate" in numbers and not name.startswith("scale_by"):
        assert objective(jax.tree.map(lambda leaf: leaf[0], found)) < objective(MATRIX)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_state_keeps_its_types(name, dtype):
    """Shapes, dtypes and weakness are a fixed point after init, so that no loop and no second call compiles again."""
    needed, numbers = options_of(name)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    optimizer = FACTORIES[name](**needed)

    def two_updates(params):
        first = optimizer.init(params)
        updates, second = optimizer.update(params, first, params)
        return first, second, optimizer.update(updates, second, params)[1], updates

    first, second, third, updates = jax.eval_shape(two_updates, params)
    assert avals(first) == avals(second) == avals(third)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((first, updates)))
    assert avals(updates) == avals(jax.eval_shape(lambda: params))
    assert set(first.hyperparams) == set(numbers)


def avals(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


@pytest.mark.parametrize("name", ["sgd", "adam", "adafactor", "lamb", "muon", "noisy_sgd"])
def test_second_call_does_not_trace(name):
    traces = []
    optimizer = FACTORIES[name](learning_rate=optax.linear_schedule(0.1, 0.0, 10))

    @jax.jit
    def step(params, state):
        traces.append(name)
        updates, state = optimizer.update(jax.grad(objective)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        params, state = step(params, state)
    assert len(traces) == 1


def test_hyperparams_tell_what_the_last_update_used():
    optimizer = FACTORIES["sgd"](learning_rate=optax.linear_schedule(1.0, 0.0, 4), momentum=0.5)
    state = optimizer.init(PARAMS)
    for rate in (1.0, 0.75, 0.5):
        _, state = optimizer.update(PARAMS, state, PARAMS)
        assert float(state.hyperparams["learning_rate"]) == rate
    assert float(state.hyperparams["momentum"]) == 0.5


def test_bfloat16_parameters_are_updated_as_precisely_as_they_can_be():
    """With 0.999 rounded to a bfloat16, which is 1, Adam's second moment would stay 0."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    found, wanted = (FACTORIES["adam"](0.05).update(p, FACTORIES["adam"](0.05).init(p), p)[0] for p in (half, PARAMS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-7), found, wanted)


def test_catalogue_holds_what_optax_is_known_for():
    assert set(COMMON) <= set(FACTORIES)
    optimizers = (
        "adabelief adadelta adafactor adagrad adam adamax adamw adan fromage lamb lars lion nadam nadamw novograd"
    )
    more = "radam rmsprop rprop sgd sign_sgd sm3 yogi muon prodigy"
    transforms = (
        "clip clip_by_global_norm adaptive_grad_clip add_decayed_weights scale_by_adam scale_by_learning_rate trace"
    )
    assert set(f"{optimizers} {more} {transforms}".split()) <= set(FACTORIES)
    assert not set(UNFIT) & set(FACTORIES)
    wrappers = {
        "chain",
        "masked",
        "multi_transform",
        "partition",
        "apply_if_finite",
        "lookahead",
        "flatten",
        "MultiSteps",
    }
    assert not wrappers & set(FACTORIES)


@pytest.mark.parametrize(
    ("name", "parameter", "annotation", "default"),
    [
        ("adam", "b1", float, 0.9),
        ("adam", "nesterov", bool, False),
        ("adam", "mu_dtype", str | None, None),
        ("adafactor", "dtype_momentum", str | None, "float32"),
        ("adafactor", "decay_offset", int, 0),
        ("adafactor", "clipping_threshold", float | None, 1.0),
        ("galore", "rank", int, 128),
    ],
)
def test_signature_is_a_schema_in_simple_types(name, parameter, annotation, default):
    found = inspect.signature(FACTORIES[name]).parameters[parameter]
    assert found.annotation == annotation
    assert found.default == default


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adam", {"learning_rate": 0.1, "b_1": 0.9}, ["b_1", "Did you mean 'b1'?"]),
        ("adam", {}, ["learning_rate"]),
        ("adam", {"learning_rate": 0.1, "b1": "high"}, ["b1", "float", "'high'"]),
        ("adam", {"learning_rate": 0.1, "nesterov": 1}, ["nesterov", "bool"]),
        ("adam", {"learning_rate": 0.1, "mu_dtype": "float33"}, ["mu_dtype", "float33"]),
    ],
)
def test_mistakes_are_told_in_one_line(name, options, words):
    with pytest.raises(ConfigError) as caught:
        FACTORIES[name](**options)
    assert all(word in str(caught.value) for word in words)


def test_refusals_of_optax_become_config_errors():
    with pytest.raises(ConfigError, match=r"muon.*ns_coeffs must have shape"):
        FACTORIES["muon"](learning_rate=0.1, ns_coeffs=[1.0, 2.0]).init(PARAMS)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("adam", {"learning_rate": float("nan")}, "a finite number"),
        ("adam", {"learning_rate": float("inf")}, "a finite number"),
        ("adam", {"learning_rate": -0.1}, "a number from 0"),
        ("adam", {"b1": 2}, "a number from 0 to below 1"),
        ("adam", {"b2": 1.0}, "a number from 0 to below 1"),
        ("adamw", {"weight_decay": float("nan")}, "a finite number"),
        ("sgd", {"momentum": 1.5}, "a number from 0 to below 1"),
        ("rmsprop", {"decay": -0.5}, "a number from 0 to below 1"),
        ("prodigy", {"betas": [0.9, 1.5]}, "a number from 0 to below 1"),
        ("clip_by_global_norm", {"max_norm": float("nan")}, "a number"),
        ("chain", {"transforms": [{"adam": {"b1": 2}}]}, "a number from 0 to below 1"),
        ("example_momentum", {"mass": 1.5}, "a number from 0 to below 1"),
        ("galore", {"rank": 0}, "a whole number from 1"),
        ("apply_every", {"k": -1}, "a whole number from 1"),
        ("adafactor", {"decay_offset": -1}, "a whole number from 0"),
        ("adafactor", {"decay_rate": 0.0}, "a number above 0"),
    ],
    ids=str,
)
def test_numbers_that_nothing_can_be_trained_with_are_refused(name, options, expected):
    factories = {**FACTORIES, **triples.catalogue(), "chain": chain}
    needed = {"learning_rate": 0.1} if "learning_rate" in inspect.signature(factories[name]).parameters else {}
    with pytest.raises(ConfigError, match=rf"^\w+ of optimizer '\w+' should be {expected}, found "):
        factories[name](**needed | options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("adam", {"b1": 0}), ("sgd", {"momentum": None}), ("clip_by_global_norm", {"max_norm": float("inf")})],
)
def test_numbers_at_the_edge_are_taken(name, options):
    needed = {} if name.startswith("clip") else {"learning_rate": 0.0}
    FACTORIES[name](**needed | options).init(PARAMS)
