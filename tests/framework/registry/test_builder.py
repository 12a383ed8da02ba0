"""From a name and options to a component: the forms of an entry, the contracts, and the errors of factories."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

from framework.api import Callback, Metric, Model, layer_name
from framework.errors import ConfigError, DataError, PluginError
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.testing import message

LAYERS = '''
from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from framework.api import Model
from framework.errors import ConfigError

def told(**options):
    """A layer whose parameters are the options it was made with."""
    def init(key, in_shape):
        return in_shape, options, ()
    def apply(params, state, inputs, *, key=None, train=False):
        return inputs, state
    return Model(init, apply)

def Scale(factor: float = 2.0, axes: tuple[int, ...] = (), name: str = "scale") -> Model:
    if factor == 0:
        raise ConfigError("factor is 0, expected another number.")
    return told(factor=factor, axes=axes)

def Pool(window: tuple[int, ...], stride: int = 1) -> Model:
    return told(window=window, stride=stride)

def Bare() -> Model:
    return told()

def Any(*values, **options) -> Model:
    return told(values=values, **options)

def stack(layers: Sequence[Model]) -> Model:
    def init(key, in_shape):
        return in_shape, [layer.init(key, in_shape)[1] for layer in layers], ()
    return Model(init, lambda params, state, inputs, *, key=None, train=False: (inputs, state))

def pair():
    return lambda key, shape: (shape, {"stock": 1}), lambda params, inputs, **kwargs: inputs
'''

NAMES = ("Scale", "Pool", "Bare", "Any", "stack", "pair")


@pytest.fixture
def layers(install):
    """A builder that knows the layers above."""
    install("acme", {"framework.layers": {name: f"acme_layers:{name}" for name in NAMES}}, {"acme_layers.py": LAYERS})
    return Builder(discover())


@pytest.fixture
def component(install):
    """Register one factory of a kind by its text, and build it."""

    def component(kind, text, **options):
        install("acme", {f"framework.{kind}": {"theirs": "acme_m:theirs"}}, {"acme_m.py": text})
        return Builder(discover()).named(kind, {"name": "theirs", **options}, "key")

    return component


def parameters(model):
    return model.init(jax.random.key(0), (-1, 4))[1]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("Scale", {"factor": 2.0, "axes": ()}),
        ("acme:Scale", {"factor": 2.0, "axes": ()}),
        ({"Scale": None}, {"factor": 2.0, "axes": ()}),
        ({"Scale": {}}, {"factor": 2.0, "axes": ()}),
        ({"Scale": []}, {"factor": 2.0, "axes": ()}),
        ({"Scale": 3}, {"factor": 3.0, "axes": ()}),
        ({"Scale": [3]}, {"factor": 3.0, "axes": ()}),
        ({"Scale": [3, [0, 1]]}, {"factor": 3.0, "axes": (0, 1)}),
        ({"Scale": {"axes": [1]}}, {"factor": 2.0, "axes": (1,)}),
        ({"acme:Scale": {"factor": 1}}, {"factor": 1.0, "axes": ()}),
        ({"name": "Scale", "factor": 4}, {"factor": 4.0, "axes": ()}),
        ({"Pool": [2, 3]}, {"window": (2, 3), "stride": 1}),
        ({"Pool": {"window": [2, 3], "stride": 2}}, {"window": (2, 3), "stride": 2}),
        ("Bare", {}),
        ({"Any": [1, [2, 3]]}, {"values": (1, (2, 3))}),
        ({"Any": {"a": [1]}}, {"values": (), "a": (1,)}),
        ("Any", {"values": ()}),
        ({"stack": ["Bare", {"Scale": 3}]}, [{}, {"factor": 3.0, "axes": ()}]),
        ({"stack": {"layers": [{"stack": ["Bare"]}]}}, [[{}]]),
        ("pair", {"stock": 1}),
    ],
)
def test_every_form_of_an_entry(layers, entry, expected):
    assert parameters(layers.entry("layers", entry, "model.layers[0]")) == expected


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (3, "model.layers[0]: expected the name of a layer or {name: options}, found 3."),
        (None, "model.layers[0]: expected the name of a layer or {name: options}, found None."),
        (["Scale"], "model.layers[0]: expected the name of a layer or {name: options}, found ['Scale']."),
        ({}, "model.layers[0]: expected the name of a layer or {name: options}, found {}."),
        ({"Scale": 1, "Bare": 2}, "model.layers[0]: expected the name of a layer or {name: options}, found {'Scale'"),
        ("Scal", "model.layers[0]: no layer is named 'Scal'. Did you mean 'Scale'?"),
        ({"Scal": 3}, "model.layers[0]: no layer is named 'Scal'. Did you mean 'Scale'?"),
        ({"Scale": {"facto": 1}}, "model.layers[0].Scale.facto: layer 'Scale' (acme 1.0) has no option 'facto'."),
        ({"Scale": "big"}, "model.layers[0].Scale.factor: expected float, found 'big' (str)."),
        ({"Scale": [1, [0, "x"]]}, "model.layers[0].Scale.axes[1]: expected int, found 'x' (str)."),
        (
            {"Scale": [1, [], "n", 4]},
            "model.layers[0].Scale: layer 'Scale' (acme 1.0) takes 3 options, found 4 values.",
        ),
        ({"Bare": 3}, "model.layers[0].Bare: layer 'Bare' (acme 1.0) takes 0 options, found 1 values."),
        ("Pool", "model.layers[0].window: layer 'Pool' (acme 1.0) needs it (tuple[int, ...]), and nothing sets it."),
        ({"Scale": 0}, "model.layers[0].Scale: factor is 0, expected another number."),
        ({"stack": ["Bare", "Bar"]}, "model.layers[0].stack.layers[1]: no layer is named 'Bar'."),
        ({"stack": [{"Scale": 0}]}, "model.layers[0].stack.layers[0].Scale: factor is 0, expected another number."),
        (
            {"stack": "Bare"},
            "model.layers[0].stack.layers: expected Sequence[Model], found 'Bare' (str).",
        ),
    ],
)
def test_a_wrong_entry_names_its_place_in_the_config(layers, entry, text):
    with pytest.raises(ConfigError) as raised:
        layers.entry("layers", entry, "model.layers[0]")
    assert message(raised).startswith(text)


@pytest.mark.parametrize("name", [None, 3, ["mlp"], {}])
def test_a_section_needs_a_name(layers, name):
    with pytest.raises(ConfigError) as raised:
        layers.named("models", {"name": name}, "model")
    assert message(raised) == f"model.name: expected the name of a model, found {name!r}."


def test_what_was_used_is_noted_by_config_key(layers):
    layers.entry("layers", {"stack": ["Bare", {"Scale": 3}]}, "model.layers[0]")
    assert {key: plugin.name for key, plugin in layers.used.items()} == {
        "model.layers[0].stack": "stack",
        "model.layers[0].stack.layers[0]": "Bare",
        "model.layers[0].stack.layers[1].Scale": "Scale",
    }


def test_a_stock_pair_is_lifted_and_keeps_the_name_it_was_called_by(layers):
    model = layers.entry("layers", "pair", "model.layers[0]")
    assert isinstance(model, Model)
    assert layer_name(model) == "pair"
    outputs, state = model.apply({}, (), jnp.ones([2, 4]), key=None, train=True)
    assert (outputs.shape, state) == ((2, 4), ())


API = "__import__('framework.api').api"

CONTRACTS = [
    ("layers", "3", "expected a Model or a stax pair (init_fun, apply_fun), found int"),
    ("layers", "(len,)", "expected a Model or a stax pair (init_fun, apply_fun), found tuple"),
    ("layers", "(len, 3)", "expected a Model or a stax pair (init_fun, apply_fun), found tuple"),
    ("models", "None", "expected a Model or a stax pair (init_fun, apply_fun), found NoneType"),
    ("models", "(len, len, len)", "expected a Model or a stax pair (init_fun, apply_fun), found tuple"),
    ("losses", "0.5", "expected a function, found float"),
    ("metrics", "0.5", "expected a function (outputs, batch) -> [B] or a Metric, found float"),
    ("optimizers", "0.1", "expected an optax.GradientTransformation or a triple, found float"),
    ("optimizers", "(len, len, len, len)", "expected an optax.GradientTransformation or a triple, found tuple"),
    ("schedules", "0.1", "expected a function, found float"),
    ("transforms", "None", "expected a function, found NoneType"),
    ("data", "object()", "object lacks spec, steps_per_epoch, splits, source, train, eval"),
    ("data", "type('Half', (), {'spec': {}, 'train': 1, 'eval': 1})()", "Half lacks steps_per_epoch, splits, source"),
    ("strategies", "None", "NoneType lacks devices, init, train, evaluate, feed"),
    ("callbacks", "object()", "expected a framework.api.Callback, found object"),
    ("callbacks", "__import__('framework.api').api.Callback", "expected a framework.api.Callback, found type"),
    ("losses", "lambda outputs: 0", "losses(outputs): too many positional arguments"),
    ("metrics", "lambda outputs, batch, k: 0", "values(outputs, batch, k): missing a required argument: 'k'"),
    ("schedules", "lambda: 0.1", "schedules(): too many positional arguments"),
    ("transforms", "lambda batch: batch", "transforms(batch): too many positional arguments"),
    ("models", f"{API}.Model(lambda key: 0, lambda *_, **__: 0)", "init(key): too many positional arguments"),
    ("layers", f"{API}.Model(lambda k, s: 0, lambda p, s, x: 0)", "apply(p, s, x): got an unexpected keyword argument"),
    ("callbacks", f"type('C', ({API}.Callback,), {{'on_log': lambda self: 0}})()", "on_log(): too many positional"),
]


@pytest.mark.parametrize(("kind", "returned", "text"), CONTRACTS)
def test_a_factory_that_returns_something_else_breaks_its_contract(component, kind, returned, text):
    with pytest.raises(PluginError) as raised:
        component(kind, f"def theirs(): return {returned}")
    assert "'theirs' (acme 1.0) breaks its contract: " in message(raised)
    assert text in message(raised)


def test_every_kind_has_a_contract_that_is_tested():
    assert {kind for kind, *_ in CONTRACTS} >= {"layers", "models", "losses", "metrics", "optimizers", "schedules"}
    assert {kind for kind, *_ in CONTRACTS} >= {"transforms", "data", "strategies", "callbacks"}


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("raise ValueError('two\\nlines')", PluginError, "cannot be built: ValueError: two lines"),
        ("raise SystemExit(3)", PluginError, "cannot be built: SystemExit: 3"),
        ("return 1 / 0", PluginError, "cannot be built: ZeroDivisionError: division by zero"),
        ("assert False", PluginError, "cannot be built: AssertionError"),
    ],
)
def test_a_factory_that_fails_is_one_line_with_key_and_owner(component, text, error, told):
    with pytest.raises(error) as raised:
        component("data", f"def theirs():\n    {text}")
    assert message(raised).startswith("key: data pipeline 'theirs' (acme 1.0) ")
    assert told in message(raised)


@pytest.mark.parametrize("error", [ConfigError, DataError, PluginError])
@pytest.mark.parametrize(
    ("arguments", "told", "key", "option"),
    [
        ("'size is 3.'", "key: size is 3.", "key", "size"),
        ("'sizes are lost.'", "key: sizes are lost.", "key", ""),
        ("'is 3.', key='size'", "key.size: is 3.", "key.size", ""),
    ],
)
def test_a_factorys_own_refusal_gets_the_key(component, error, arguments, told, key, option):
    text = f"from framework.errors import *\ndef theirs(size: int = 1): raise {error.__name__}({arguments})"
    with pytest.raises(error) as raised:
        component("data", text, size=3)
    assert message(raised) == told
    assert (raised.value.key, raised.value.option) == (key, option)


def test_a_refusal_of_a_class_of_its_own_keeps_its_class_and_gets_the_key(component):
    text = """
from framework.errors import ConfigError
class TooWide(ConfigError):
    def __init__(self, width, most):
        super().__init__(f"width {width} is over {most}.")
def theirs(): raise TooWide(3, 2)
"""
    with pytest.raises(ConfigError) as raised:
        component("models", text)
    assert type(raised.value).__name__ == "TooWide"
    assert message(raised) == "key: width 3 is over 2."


def test_an_interrupted_factory_is_not_a_broken_one(component):
    with pytest.raises(KeyboardInterrupt):
        component("data", "def theirs(): raise KeyboardInterrupt")


def test_a_plain_function_is_a_metric_with_the_mean_as_its_result(component):
    metric = component("metrics", "def theirs(): return lambda outputs, batch: outputs")
    assert isinstance(metric, Metric)
    assert metric.result(6.0, 4.0) == 1.5


def test_a_callback_class_is_its_own_factory(component):
    text = "from __future__ import annotations\nfrom framework.api import Callback\n"
    text += "class theirs(Callback):\n    def __init__(self, every: int = 1): self.every = every\n"
    callback = component("callbacks", text, every=7.0)
    assert isinstance(callback, Callback)
    assert callback.every == 7


OPTIMIZERS = """
from __future__ import annotations
from collections.abc import Sequence
import optax
def descend(learning_rate) -> optax.GradientTransformation:
    return optax.sgd(learning_rate)
def both(parts: Sequence[optax.GradientTransformation]) -> optax.GradientTransformation:
    return optax.chain(*parts)
def triple(step_size: float):
    return lambda x: x, lambda i, g, x: x - step_size * g, lambda x: x
"""


@pytest.fixture
def optimizers(install):
    """A builder that knows the optimizers above, whose schedule halves 1 each step."""
    names = {name: f"acme_o:{name}" for name in ("descend", "both", "triple")}
    install("acme", {"framework.optimizers": names}, {"acme_o.py": OPTIMIZERS})
    builder = Builder(discover())
    builder.rate = lambda step: jnp.float32(0.5) ** step
    return builder


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "descend"}, [-1.0, -0.5]),
        ({"name": "descend", "learning_rate": 0.25}, [-0.25, -0.25]),
        ({"name": "both", "parts": ["descend"]}, [-1.0, -0.5]),
        ({"name": "both", "parts": [{"descend": {"learning_rate": 0.25}}]}, [-0.25, -0.25]),
        ({"name": "both", "parts": [{"descend": 0.25}]}, [-0.25, -0.25]),
        ({"name": "triple", "step_size": 0.25}, [-0.25, -0.25]),
    ],
)
def test_optimizers_get_the_schedule_where_they_name_no_rate(optimizers, config, expected):
    optimizer = optimizers.named("optimizers", config, "optimizer")
    assert isinstance(optimizer, optax.GradientTransformation)
    params = jnp.zeros([])
    state = optimizer.init(params)
    updates = []
    for _ in expected:
        update, state = optimizer.update(jnp.ones([]), state, params)
        params = optax.apply_updates(params, update)
        updates.append(float(update))
    assert updates == expected


READ_LATER = """
class theirs:
    spec = steps_per_epoch = splits = None
    source = "later"
    def train(self, seed, start): ...
    def eval(self, split): ...
    def ready(self):
        {}
"""


@pytest.mark.parametrize(
    ("later", "error", "text"),
    [
        (
            "raise OSError('the disk is gone')",
            PluginError,
            r"^key: data pipeline 'theirs' \(acme 1.0\) cannot be built: .*gone",
        ),
        ("raise __import__('framework.errors').errors.DataError('no such file.')", DataError, "^key: no such file.$"),
    ],
)
def test_what_is_wrong_with_data_that_are_read_later_is_told_as_by_the_factory(install, later, error, text):
    install("acme", {"framework.data": {"theirs": "acme_m:theirs"}}, {"acme_m.py": READ_LATER.format(later)})
    builder = Builder(discover())
    built = builder.named("data", {"name": "theirs"}, "key")
    with pytest.raises(error, match=text):
        builder.finish(built, "key")


def test_a_component_whose_option_is_called_name_is_refused_to_its_author(component):
    with pytest.raises(PluginError) as raised:
        component("models", "def theirs(name: str, width: int = 3): ...")
    told = "key: model 'theirs' (acme 1.0) needs an option 'name', and that key names the component; its author must"
    assert message(raised).startswith(told)
