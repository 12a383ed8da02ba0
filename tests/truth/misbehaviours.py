"""Plugins that misbehave, one a row: the source of a factory `plugin`, the words that choose it, and its one line."""

from __future__ import annotations

from typing import NamedTuple

COMMON = """
import jax, jax.numpy as jnp, numpy as np, optax
from framework.api import (Callback, Command, DataPipeline, Metric, Model, Share, StopTraining, Store, Strategy,
                           StrategyWrapper)
from framework.errors import ConfigError, DataError


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Data(DataPipeline):
    spec = {"inputs": jax.ShapeDtypeStruct((4, 6), np.float32), "targets": jax.ShapeDtypeStruct((4,), np.int32)}
    steps_per_epoch, splits, source = 2, ("test",), "four examples"

    def batch(self, **changed):
        return {"inputs": np.ones([4, 6], np.float32), "targets": np.arange(4, dtype=np.int32)} | changed

    def train(self, seed, start=0):
        while True:
            yield self.batch()

    def eval(self, split):
        yield self.batch(weights=np.ones([4], np.float32))


def linear(init=None, apply=None, width=10):
    def plain_init(key, in_shape):
        return (-1, width), {"W": jnp.zeros([in_shape[-1], width])}, ()

    def plain_apply(params, state, inputs, *, key=None, train=False):
        return inputs @ params["W"], state

    return Model(init or plain_init, apply or plain_apply)


def fail(*args, **kwargs):
    raise ValueError("it broke")


def single():
    from framework_strategies.jit import jit
    return jit()
"""


class Row(NamedTuple):
    """One plugin that misbehaves.

    Attributes:
      name: the plugin's; it begins with the noun of its kind.
      source: of a module, that is put behind `COMMON`.
      said: the parts of the one line, beside the plugin's name and its distribution.
      words: further overrides; "{name}" stands for the plugin's name.
      code: the exit code.
    """

    name: str
    source: str
    said: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    code: int = 3


BROKE = "ValueError: it broke"

MODELS = (
    Row("model_none", "def plugin(): return None", ("model: ", "expected a Model")),
    Row("model_number", "def plugin(): return 3", ("model: ", "found int")),
    Row("model_text_pair", "def plugin(): return ('init', 'apply')", ("model: ", "expected a Model")),
    Row(
        "model_few_arguments", "def plugin(): return linear(apply=lambda params, inputs: inputs)", ("model: ", "apply")
    ),
    Row("model_raises", "plugin = lambda: fail()", ("model: ", BROKE)),
    Row("model_exits", "def plugin(): raise SystemExit(0)", ("model: ", "SystemExit")),
    Row("model_lines", "def plugin(): raise ValueError('one\\ntwo\\x1b[31m')", ("model: ", "one two")),
    Row("model_mute", "def plugin(): raise Mute", ("model: ", "Mute")),
    Row("model_empty", "def plugin(): raise ValueError", ("model: ", "ValueError")),
    Row("model_import", "raise Mute", ("model: ", "Mute", "cannot be imported", "(set on the command line)")),
    Row("model_import_exits", "raise SystemExit(0)", ("SystemExit", "cannot be imported")),
    Row("model_syntax", "def plugin(:", ("SyntaxError", "cannot be imported")),
    Row("model_init_raises", "def plugin(): return linear(init=fail)", ("init", BROKE)),
    Row("model_apply_raises", "def plugin(): return linear(apply=fail)", ("apply", BROKE)),
    Row(
        "model_apply_mute",
        "def apply(*a, **k): raise Mute\ndef plugin(): return linear(apply=apply)",
        ("apply", "Mute"),
    ),
    Row(
        "model_apply_exits",
        "def apply(*a, **k): raise SystemExit(0)\ndef plugin(): return linear(apply=apply)",
        ("apply", "SystemExit"),
    ),
    Row(
        "model_stop_iteration",
        "def apply(*a, **k): next(iter(()))\ndef plugin(): return linear(apply=apply)",
        ("apply", "StopIteration"),
    ),
    Row(
        "model_init_none", "def plugin(): return linear(init=lambda key, shape: None)", ("init", "expected", "NoneType")
    ),
    Row(
        "model_init_two",
        "def plugin(): return linear(init=lambda key, shape: ((-1, 10), ()))",
        ("init", "(out_shape, params, state)"),
    ),
    Row(
        "model_apply_none",
        "def plugin(): return linear(apply=lambda p, s, i, *, key=None, train=False: None)",
        ("apply", "(outputs, state)"),
    ),
    Row(
        "model_apply_one",
        "def plugin(): return linear(apply=lambda p, s, i, *, key=None, train=False: i @ p['W'])",
        ("apply", "(outputs, state)"),
    ),
    Row(
        "model_text_outputs",
        "def plugin(): return linear(apply=lambda p, s, i, *, key=None, train=False: ('yes', s))",
        ("apply", "'yes'"),
    ),
    Row(
        "model_text_parameters",
        "def plugin(): return linear(init=lambda key, shape: ((-1, 10), {'W': 'one'}, ()))",
        ("init", "'one'"),
    ),
    Row(
        "model_other_width",
        "def apply(p, s, i, *, key=None, train=False): return (i @ p['W'])[:, :7], s\n"
        "def plugin(): return linear(apply=apply)",
        ("model: ", "[16, 7]", "(-1, 10)"),
    ),
    Row(
        "model_loses_examples",
        "def apply(p, s, i, *, key=None, train=False): return (i @ p['W'])[:3], s\n"
        "def plugin(): return linear(apply=apply)",
        ("model: ", "[3, 10]", "float32[16, 6]"),
    ),
    Row(
        "model_state_grows",
        "def apply(p, s, i, *, key=None, train=False): return i @ p['W'], (s, jnp.zeros(3))\n"
        "def plugin(): return linear(apply=apply)",
        ("model_state",),
    ),
    Row(
        "model_state_dtype",
        "def init(key, shape): return (-1, 10), {'W': jnp.zeros([6, 10])}, jnp.zeros([3])\n"
        "def apply(p, s, i, *, key=None, train=False): return i @ p['W'], s.astype(jnp.int32)\n"
        "def plugin(): return linear(init, apply)",
        ("model_state", "float32[3]", "int32[3]"),
    ),
    Row(
        "model_leaks",
        "kept = []\n"
        "def apply(p, s, i, *, key=None, train=False):\n"
        "    kept.append(i)\n"
        "    return kept[0] @ p['W'], s\n"
        "def plugin(): return linear(apply=apply)",
        ("model ", "debug=leaks"),
    ),
    Row(
        "model_reads_numbers",
        "def apply(p, s, i, *, key=None, train=False): return (i if i.sum() > 0 else -i) @ p['W'], s\n"
        "def plugin(): return linear(apply=apply)",
        ("apply", "TracerBoolConversionError"),
    ),
    Row(
        "model_huge",
        "def init(key, shape): return (-1, 10), {'W': jnp.zeros([6, 10]), 'X': jnp.zeros([1 << 40, 10])}, ()\n"
        "def plugin(): return linear(init)",
        ("model: ", "memory", "in X"),
        code=2,
    ),
)

LOSSES = (
    Row("loss_none", "def plugin(): return None", ("loss: ", "NoneType")),
    Row("loss_one_argument", "def plugin(): return lambda outputs: 0", ("loss: ", "too many positional")),
    Row("loss_raises", "def plugin(): return fail", ("loss", BROKE)),
    Row("loss_mean", "def plugin(): return lambda outputs, batch: outputs.mean()", ("loss", "[B]")),
    Row("loss_returns_none", "def plugin(): return lambda outputs, batch: None", ("loss", "NoneType")),
    Row("loss_returns_text", "def plugin(): return lambda outputs, batch: 'much'", ("loss", "'much'")),
    Row("loss_each_output", "def plugin(): return lambda outputs, batch: outputs", ("loss", "[16, 10]", "[B]")),
    Row("loss_other_rows", "def plugin(): return lambda outputs, batch: outputs[:3, 0]", ("loss", "3", "16")),
    Row(
        "loss_complex",
        "def plugin(): return lambda outputs, batch: jax.lax.complex(outputs[:, 0], outputs[:, 1])",
        ("loss", "complex64"),
    ),
    Row(
        "loss_other_key", "def plugin(): return lambda outputs, batch: batch['labels']", ("loss", "KeyError", "labels")
    ),
    Row("loss_mute", "def plugin():\n    def f(outputs, batch): raise Mute\n    return f", ("loss", "Mute")),
)

METRICS = (
    Row("metric_none", "def plugin(): return None", ("metrics.{name}: ", "NoneType")),
    Row("metric_raises", "def plugin(): return fail", ("metrics.{name}", BROKE)),
    Row("metric_scalar", "def plugin(): return lambda outputs, batch: outputs.mean()", ("metrics.{name}", "[B]")),
    Row("metric_values_none", "def plugin(): return lambda outputs, batch: None", ("metrics.{name}", "NoneType")),
    Row("metric_rows", "def plugin(): return lambda outputs, batch: outputs[:5, 0]", ("metrics.{name}", "5", "16")),
    Row(
        "metric_result_raises",
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], fail)",
        ("metrics.{name}", "result", BROKE),
    ),
    Row(
        "metric_result_text",
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], lambda total, count: 'good')",
        ("metrics.{name}", "result", "'good'"),
    ),
    Row(
        "metric_result_array",
        "def plugin(): return Metric(lambda outputs, batch: outputs, lambda total, count: total)",
        ("metrics.{name}", "result", "[10]"),
    ),
    Row(
        "metric_result_none",
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], lambda total, count: None)",
        ("metrics.{name}", "result", "NoneType"),
    ),
    Row(
        "metric_result_nested",
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], lambda total, count: {'a': {'b': 1.0}})",
        ("metrics.{name}", "result", "dict"),
    ),
    Row(
        "metric_result_control",
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], lambda total, count: {'a\\x1b[31m': 1.0})",
        ("metrics.{name}", "result", "\\x1b"),
    ),
    Row(
        "metric_result_number_key",
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], lambda total, count: {3: 1.0})",
        ("metrics.{name}", "result", "3"),
    ),
    Row(
        "metric_result_arity",
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], lambda total: 1.0)",
        ("metrics.{name}", "result"),
    ),
    Row(
        "metric_result_exits",
        "def result(total, count): raise SystemExit(0)\n"
        "def plugin(): return Metric(lambda outputs, batch: outputs[:, 0], result)",
        ("metrics.{name}", "result", "SystemExit"),
    ),
)

OPTIMIZERS = (
    Row("optimizer_none", "def plugin(): return None", ("optimizer: ", "NoneType")),
    Row(
        "optimizer_init_raises",
        "def plugin(): return optax.GradientTransformation(fail, fail)",
        ("optimizer", "init", BROKE),
    ),
    Row(
        "optimizer_update_raises",
        "def plugin(): return optax.GradientTransformation(lambda params: (), fail)",
        ("optimizer", "update", BROKE),
    ),
    Row(
        "optimizer_update_none",
        "def plugin(): return optax.GradientTransformation(lambda p: (), lambda g, s, p=None: None)",
        ("optimizer", "update", "(updates, state)"),
    ),
    Row(
        "optimizer_other_tree",
        "def plugin(): return optax.GradientTransformation(lambda p: (), lambda g, s, p=None: ({'W': 0.0}, s))",
        ("optimizer", "update"),
    ),
    Row(
        "optimizer_other_shape",
        "def update(g, s, p=None): return jax.tree.map(lambda x: jnp.zeros([3, 3]), g), s\n"
        "def plugin(): return optax.GradientTransformation(lambda p: (), update)",
        ("optimizer", "update", "[3, 3]"),
    ),
    Row(
        "optimizer_dtype",
        "def update(g, s, p=None): return jax.tree.map(lambda x: x.astype(jnp.complex64), g), s\n"
        "def plugin(): return optax.GradientTransformation(lambda p: (), update)",
        ("optimizer", "update", "complex64"),
    ),
    Row(
        "optimizer_state_grows",
        "def plugin(): return optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (g, (s, jnp.zeros(2))))",
        ("optimizer", "opt_state"),
    ),
    Row(
        "optimizer_state_dtype",
        "def update(g, s, p=None): return g, s.astype(jnp.float32) + 1\n"
        "def plugin(): return optax.GradientTransformation(lambda p: jnp.zeros([], jnp.int32), update)",
        ("optimizer", "opt_state", "int32[]", "float32[]"),
    ),
    Row(
        "optimizer_text_state",
        "def plugin(): return optax.GradientTransformation(lambda p: 'fresh', lambda g, s, p=None: (g, s))",
        ("optimizer", "init", "'fresh'"),
    ),
)

SCHEDULES = (
    Row("schedule_none", "def plugin(): return None", ("schedule: ", "NoneType")),
    Row("schedule_raises", "def plugin(): return fail", ("schedule", BROKE)),
    Row("schedule_returns_none", "def plugin(): return lambda step: None", ("schedule", "NoneType")),
    Row("schedule_text", "def plugin(): return lambda step: 'fast'", ("schedule", "'fast'")),
    Row("schedule_vector", "def plugin(): return lambda step: jnp.ones([3])", ("schedule", "[3]")),
    Row("schedule_branches", "def plugin(): return lambda step: 1.0 if step > 2 else 2.0", ("schedule", "Tracer")),
)

TRANSFORMS = (
    Row("transform_none", "def plugin(): return None", ("data.transform[0]", "NoneType")),
    Row("transform_raises", "def plugin(): return fail", ("data.transform[0]", BROKE)),
    Row("transform_returns_none", "def plugin(): return lambda key, batch: None", ("data.transform[0]", "NoneType")),
    Row(
        "transform_drops",
        "def plugin(): return lambda key, batch: {'inputs': batch['inputs']}",
        ("data.transform[0]", "targets"),
    ),
    Row(
        "transform_shape",
        "def plugin(): return lambda key, batch: {**batch, 'inputs': batch['inputs'][:, :2]}",
        ("data.transform[0]", "inputs", "float32[16, 2]", "float32[16, 6]"),
    ),
    Row(
        "transform_mutates",
        "def plugin():\n"
        "    def transform(key, batch):\n"
        "        batch['inputs'][0] = 0\n"
        "        return batch\n"
        "    return transform",
        ("data.transform[0]", "TypeError"),
    ),
)

HOOK = "class C(Callback):\n    every = 1\n    def {hook}(self, *args):\n        {body}\ndef plugin(): return C()\n"


def _hook(name: str, hook: str, body: str, said: tuple[str, ...]) -> Row:
    return Row(f"callback_{name}", HOOK.format(hook=hook, body=body), (hook, *said))


CALLBACKS = (
    Row("callback_none", "def plugin(): return None", ("callbacks.{name}: ", "NoneType")),
    Row("callback_plain", "class C: every = 1\ndef plugin(): return C()", ("callbacks.{name}: ", "Callback")),
    Row("callback_class", "def plugin(): return Callback", ("callbacks.{name}: ",)),
    Row(
        "callback_arity",
        "class C(Callback):\n    def on_log(self, step): ...\ndef plugin(): return C()",
        ("callbacks.{name}: ", "on_log"),
    ),
    Row("callback_every_text", "class C(Callback): every = 'often'\ndef plugin(): return C()", ("every", "'often'")),
    Row("callback_every_negative", "class C(Callback): every = -3\ndef plugin(): return C()", ("every", "-3")),
    Row("callback_every_none", "class C(Callback): every = None\ndef plugin(): return C()", ("every", "None")),
    *(
        _hook(f"{hook}_raises", hook, "fail()", (BROKE,))
        for hook in ("on_built", "on_start", "on_log", "on_state", "settle", "on_end")
    ),
    *(
        _hook(f"{hook}_exits", hook, "raise SystemExit(0)", ("SystemExit",))
        for hook in ("on_start", "on_log", "on_state", "on_end")
    ),
    _hook("mute", "on_log", "raise Mute", ("Mute",)),
    _hook("stop_iteration", "on_state", "raise StopIteration", ("StopIteration",)),
    _hook("generator_exit", "on_state", "raise GeneratorExit", ("GeneratorExit",)),
    _hook("changes_every", "on_log", "self.every = 'often'; fail()", (BROKE,)),
    _hook("keeps_state", "on_state", "str(getattr(self, 'kept', [args[1]])[0].params); self.kept = [args[1]]", ()),
)

DATA = (
    Row("data_none", "def plugin(): return None", ("data: ", "NoneType")),
    Row("data_no_spec", "class D:\n    splits = ()\ndef plugin(): return D()", ("data: ", "lacks spec")),
    Row(
        "data_spec_raises",
        "class D(Data):\n    @property\n    def spec(self): return self.missing\ndef plugin(): return D()",
        ("data: ", "spec", "missing"),
    ),
    Row("data_spec_none", "class D(Data): spec = None\ndef plugin(): return D()", ("data: ", "spec", "None")),
    Row("data_spec_empty", "class D(Data): spec = {}\ndef plugin(): return D()", ("data: ", "spec", "inputs")),
    Row(
        "data_spec_no_inputs",
        "class D(Data): spec = {'x': Data.spec['inputs']}\ndef plugin(): return D()",
        ("data: ", "spec", "inputs"),
    ),
    Row("data_spec_text", "class D(Data): spec = {'inputs': 'four'}\ndef plugin(): return D()", ("data: ", "spec")),
    Row(
        "data_spec_scalar",
        "class D(Data): spec = {'inputs': jax.ShapeDtypeStruct((), np.float32)}\ndef plugin(): return D()",
        ("data: ", "spec", "inputs"),
    ),
    Row(
        "data_spec_uneven",
        "class D(Data): spec = Data.spec | {'targets': jax.ShapeDtypeStruct((3,), np.int32)}\ndef plugin(): return D()",
        ("data: ", "spec", "targets"),
    ),
    *(
        Row(f"data_{word}", f"class D(Data): {field} = {value}\ndef plugin(): return D()", ("data: ", field, value))
        for word, field, value in [
            ("steps_zero", "steps_per_epoch", "0"),
            ("steps_negative", "steps_per_epoch", "-2"),
            ("steps_fraction", "steps_per_epoch", "2.5"),
            ("steps_none", "steps_per_epoch", "None"),
            ("splits_empty", "splits", "()"),
            ("splits_text", "splits", "'test'"),
            ("splits_none", "splits", "None"),
            ("source_number", "source", "3"),
        ]
    ),
    Row(
        "data_train_raises",
        "class D(Data):\n    def train(self, seed, start=0): fail()\ndef plugin(): return D()",
        ("data: ", BROKE),
    ),
    Row(
        "data_train_raises_late",
        "class D(Data):\n    def train(self, seed, start=0):\n        yield self.batch()\n        fail()\n"
        "def plugin(): return D()",
        ("data: ", "step 2", BROKE),
    ),
    Row(
        "data_train_exits",
        "class D(Data):\n    def train(self, seed, start=0):\n        yield self.batch()\n        raise SystemExit(0)\n"
        "def plugin(): return D()",
        ("data: ", "step 2", "SystemExit"),
    ),
    Row(
        "data_train_ends",
        "class D(Data):\n    def train(self, seed, start=0):\n        yield self.batch()\ndef plugin(): return D()",
        ("data: ", "step 2"),
    ),
    Row(
        "data_train_none",
        "class D(Data):\n    def train(self, seed, start=0): ...\ndef plugin(): return D()",
        ("data: ", "None"),
    ),
    Row(
        "data_train_list",
        "class D(Data):\n    def train(self, seed, start=0): return [self.batch()]\ndef plugin(): return D()",
        ("data: ", "step 2"),
    ),
    *(
        Row(
            f"data_batch_{word}",
            "class D(Data):\n    def train(self, seed, start=0):\n        yield self.batch()\n        yield "
            f"{value}\n        while True: yield self.batch()\ndef plugin(): return D()",
            ("data: ", "step 2", *said),
            code=4,
        )
        for word, value, said in [
            ("none", "None", ("None",)),
            ("text", "'batch'", ("str",)),
            ("missing", "{'inputs': self.batch()['inputs']}", ("targets",)),
            ("shape", "self.batch(inputs=np.ones([4, 5], np.float32))", ("inputs", "[4, 5]", "[4, 6]")),
            ("short", "{name: leaf[:2] for name, leaf in self.batch().items()}", ("[2", "[4")),
            ("dtype", "self.batch(targets=np.ones([4], np.float32))", ("targets", "float32", "int32")),
            ("extra", "self.batch(more=np.ones([4], np.float32))", ("more",)),
            ("objects", "self.batch(targets=np.array([None] * 4))", ("targets", "object")),
        ]
    ),
    Row(
        "data_eval_raises",
        "class D(Data):\n    def eval(self, split): fail()\ndef plugin(): return D()",
        ("data: ", "test", BROKE),
    ),
    Row(
        "data_eval_raises_late",
        "class D(Data):\n    def eval(self, split):\n        yield from super().eval(split)\n        fail()\n"
        "def plugin(): return D()",
        ("data: ", "test", "2", BROKE),
    ),
    Row(
        "data_eval_exits",
        "class D(Data):\n    def eval(self, split): raise SystemExit(0)\ndef plugin(): return D()",
        ("data: ", "test", "SystemExit"),
    ),
    Row(
        "data_eval_empty",
        "class D(Data):\n    def eval(self, split): return iter(())\ndef plugin(): return D()",
        ("data: ", "test"),
        code=4,
    ),
    Row(
        "data_eval_none",
        "class D(Data):\n    def eval(self, split): ...\ndef plugin(): return D()",
        ("data: ", "test", "None"),
    ),
    Row(
        "data_eval_batch_none",
        "class D(Data):\n    def eval(self, split): yield None\ndef plugin(): return D()",
        ("data: ", "test", "None"),
        code=4,
    ),
    Row(
        "data_eval_missing",
        "class D(Data):\n    def eval(self, split):\n        yield {'inputs': self.batch()['inputs']}\n"
        "def plugin(): return D()",
        ("data: ", "test", "targets"),
        code=4,
    ),
)

STORES = (
    Row("store_none", "def plugin(): return None", ("store: ",)),
    Row("store_other_name", "def plugin(): return Store('other', 'x', fail, fail)", ("store: ", "calls itself")),
    Row("store_write_raises", "def plugin(): return Store('store_write_raises', 'x', fail, fail)", ("write", BROKE)),
    Row(
        "store_write_exits",
        "def write(*args): raise SystemExit(0)\ndef plugin(): return Store('store_write_exits', 'x', write, fail)",
        ("write", "SystemExit"),
    ),
    Row(
        "store_writes_nothing",
        "def plugin(): return Store('store_writes_nothing', 'x', lambda path, arrays: None, fail)",
        ("write", "x"),
    ),
    Row(
        "store_outside",
        "def plugin(): return Store('store_outside', '../../x', lambda path, arrays: None, fail)",
        ("store: ", "'../../x'"),
    ),
)

STRATEGIES = (
    Row("strategy_none", "def plugin(): return None", ("strategy: ", "lacks")),
    *(
        Row(
            f"strategy_{method}_raises",
            f"class S(StrategyWrapper):\n    def {method}(self, *args): fail()\ndef plugin(): return S(single())",
            ("strategy", method, BROKE),
        )
        for method in ("init", "train", "evaluate", "feed")
    ),
    *(
        Row(
            f"strategy_{method}_none",
            f"class S(StrategyWrapper):\n    def {method}(self, *args): return None\ndef plugin(): return S(single())",
            ("strategy", method, "None"),
        )
        for method in ("init", "train", "evaluate")
    ),
    Row(
        "strategy_call_raises",
        "class S(StrategyWrapper):\n    def calling(self, call): return fail\ndef plugin(): return S(single())",
        ("strategy", BROKE),
    ),
    *(
        Row(
            f"strategy_devices_{word}",
            f"class S(StrategyWrapper):\n    devices = {value}\ndef plugin(): return S(single())",
            ("strategy: ", "devices", value),
        )
        for word, value in [("zero", "0"), ("negative", "-1"), ("none", "None"), ("text", "'two'")]
    ),
)

COMMANDS = (
    Row("command_none", "def plugin(): return None", ("breaks its contract",), ()),
    Row("command_raises", "def plugin(): return Command('command_raises', 'x', fail)", (BROKE,)),
    Row(
        "command_mute",
        "def run(words): raise Mute\ndef plugin(): return Command('command_mute', 'x', run)",
        ("Mute",),
    ),
    Row("command_text", "def plugin(): return Command('command_text', 'x', lambda words: 'done')", ("'done'",)),
    Row("command_large", "def plugin(): return Command('command_large', 'x', lambda words: 256)", ("256",)),
    Row("command_factory_exits", "def plugin(): raise SystemExit(0)", ("SystemExit",)),
)

ROWS = (
    *MODELS,
    *LOSSES,
    *METRICS,
    *OPTIMIZERS,
    *SCHEDULES,
    *TRANSFORMS,
    *CALLBACKS,
    *DATA,
    *STORES,
    *STRATEGIES,
    *COMMANDS,
)
