"""The contracts between the core and its plugins, in three shapes.

A pair of pure functions (model, optimizer, store), a function to per-example values (loss, metric), and an object with
a few methods (data, strategy, callback). An entry point names a factory of one; its signature is its options' schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from framework.media.values import Audio, Embedding, Figure, Histogram, Image, Medium, PRCurve, Table, Text
from framework.trees import PyTree

Array = jax.Array
Shape = Any
"""A shape whose leading -1 stands for the batch, such as (-1, 28, 28, 1), or a pytree of shapes."""

Batch = Mapping[str, PyTree]
"""Keys "inputs", "targets" and, where examples count unequally, "weights": [B], or [B, T] for the positions of a
sequence. Inputs and targets may be nested, such as {"image": …, "text": …}. Every leaf has leading axis B."""

Loss = Callable[[PyTree, Batch], Any]
"""`loss(outputs, batch) -> [B]`, one value per example, or `Counted`. The core takes the weighted mean.

A loss that draws random numbers has a parameter `key` beside: the key of the step and device, as layers get it, and
None in evaluations."""

Targets = Literal["classes", "binary", "real"]
"""Kinds of targets.

classes: class numbers [B, ...] from 0 to K-1, or distributions over K classes [B, ..., K], such as one-hot rows.
binary: labels from 0 (no) to 1 (yes), each for itself: one for an example, [B] or [B, 1], or several, [B, K].
real: real numbers, as in a regression.
"""

Schedule = Callable[[Array], Array]
"""`schedule(step) -> rate`, both scalars; step counts updates from 0."""

Transform = Callable[[Array, Batch], Batch]
"""`transform(keys, batch) -> batch`, a pure JAX function that runs inside the compiled train step. `keys` [B] holds a
key for each example, by its place in the whole batch: the noise of an example is the same however a batch is cut."""


class Model(NamedTuple):
    """A network, or one layer of it, as two pure functions. `layer_name(model)` is its name in messages and paths.

    Attributes:
      init: `init(key, in_shape) -> (out_shape, params, state)`. Shapes are tuples (or pytrees of them) whose leading
        -1 is the batch. `state` is what changes without a gradient, such as running averages; `()` if nothing does.
      apply: `apply(params, state, inputs, *, key=None, train=False) -> (outputs, state)`.
    """

    init: Callable[..., tuple[Shape, PyTree, PyTree]]
    apply: Callable[..., tuple[PyTree, PyTree]]


class Counted(NamedTuple):
    """Values of examples that count in part only, since some of their positions are left out or weigh less.

    Attributes:
      values: [B, ...], a mean over the positions that count; 0 where none does.
      counts: [B], the mean weight of an example's positions, 0 for those left out. A batch's weights of shape [B, T]
        are in it; weights of shape [B] are not, since the core multiplies by them.
    """

    values: Array
    counts: Array


@dataclass(frozen=True)
class TargetedLoss:
    """A loss that says what its targets are. It is called as any other loss.

    Attributes:
      values: the loss itself.
      targets: what it takes; metrics with an option `targets` get it as default, and others are held against it.
      ignore_index: a class number that marks what does not count.
      on_head: the name of the outputs that it takes, where a model has several heads; None for all outputs.
      on_target: the name of the targets that it takes, where a batch has several; None for all targets.
    """

    values: Loss
    targets: Targets
    ignore_index: int | None = None
    on_head: str | None = None
    on_target: str | None = None

    def __call__(self, outputs: PyTree, batch: Batch, **options: Any) -> Any:
        """Return the values."""
        return self.values(outputs, batch, **options)


@dataclass(frozen=True)
class WeightedLoss:
    """A weighted sum of losses, such as those of a model's heads. It is called as any other loss.

    Attributes:
      values: the loss itself.
      losses: its terms by name, each a `TargetedLoss` or a plain loss.
    """

    values: Loss
    losses: Mapping[str, Loss]

    def __call__(self, outputs: PyTree, batch: Batch, **options: Any) -> Any:
        """Return the values."""
        return self.values(outputs, batch, **options)


class Metric(NamedTuple):
    """A metric that is not the mean of one value per example, or that says more of itself.

    Attributes:
      values: `values(outputs, batch) -> [B, ...]`, a statistic of any trailing shape for each example, or `Counted`.
      result: `result(total, count) -> float or {suffix: float}`, from the weighted sum of the statistics over all
        examples (shape [...], NumPy float64) and the summed weight. It runs on the host. Where the examples leave it
        without a value, it is `Undefined(why)`.
      higher_is_better: which way is better, for all of its numbers; None where it does not say.
      targets: the kinds of targets that it applies to; None for any.
      collect: keep the statistics of all examples rather than their sum, for what no sum can tell. `result` is then
        given them all, [N, ...], and the weights [N]. They are kept in the host's memory, and of evaluations alone:
        such a metric is not computed in training.
    """

    values: Callable[[PyTree, Batch], Any]
    result: Callable[[Any, Any], float | Mapping[str, float]]
    higher_is_better: bool | None = None
    targets: tuple[Targets, ...] | None = None
    collect: bool = False


class Undefined(float):
    """NaN as a number of a metric that its examples leave without a value, such as the AUC of one class.

    The core tells the reason once, with the metric's tag and the split.
    """

    why: str

    def __new__(cls, why: str) -> Undefined:
        """Make a NaN.

        Args:
          why: the reason, in words that go on after "…: ", without a full stop.
        """
        number = super().__new__(cls, "nan")
        number.why = why
        return number


class TrainState(NamedTuple):
    """One pytree that holds all that a run needs to go on.

    Attributes:
      step: int32 [], updates made so far.
      params: what has gradients: of the one model of a task, or a mapping by the names of several.
      model_state: what models change without a gradient, arranged as the parameters.
      opt_state: of the one optimizer of a task, or a mapping by the names of its objectives.
      key: the root key: derived from, never consumed.
      task_state: what the task keeps beside its models, such as a teacher, a replay buffer or environments.
    """

    step: Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    key: Array
    task_state: PyTree = ()


class View(NamedTuple):
    """The parts of a train state that a trained model needs; the parameters are those that it is evaluated with."""

    params: PyTree
    model_state: PyTree
    task_state: PyTree = ()


MediumName = Literal["image", "text", "table", "histogram"]
"""Forms in which an exhibit is shown."""


class Exhibit(NamedTuple):
    """Something to look at beside numbers: samples, reconstructions, a text. It is made at each evaluation.

    Attributes:
      medium: image: float [H, W], [H, W, 3] or [N, H, W, C], from 0 to 1; histogram: numbers of any shape; text: a
        text; table: a mapping from the names of columns to lists of equal lengths.
      make: `make(view, batch, key) -> arrays`, pure and compiled; the batch is the first of the evaluation.
      show: `show(arrays, facts) -> medium` on the host, where the arrays are not what is shown, such as characters'
        numbers; `facts` are those of the data, such as an alphabet.
    """

    medium: MediumName
    make: Callable[[Any, Batch, Array], PyTree]  # of a view, or of networks where a Learner makes the task
    show: Callable[[PyTree, Mapping[str, Any]], Any] | None = None


class Task(NamedTuple):
    """The pure functions that make a state and a step; strategies compile them, and the loop calls them.

    A task's factory says by its parameters which sections a config has. A `Model`, a `Loss`, an optimizer
    (`optax.GradientTransformation`) or an `Environment` is a section of the parameter's name; `Mapping[str, Metric]` is
    a section of several by tag; `Sequence[Transform]` is `data.transform`, and `accumulate` is `train.accumulate`. All
    others are options of the section `task`.

    Attributes:
      init: `init(key, spec) -> TrainState`, where spec holds a `jax.ShapeDtypeStruct` [B, ...] for each leaf.
      train_step: `train_step(state, batch, axis=None) -> (state, {name: (total, count)})`; "loss" must be among them.
      eval_step: `eval_step(state, batch, axis=None) -> {name: (total, count)}`.
      results: by name, what turns a total and a count into numbers, as `Metric.result` does; by default it divides.
      check: `check(spec, examples) -> (row, text) or None`, the first of some examples (NumPy arrays [N, ...])
        that cannot be learnt from, and what was found and expected; None where the task checks nothing.
      directions: by name of a metric, whether high values are good (True), low ones (False), or neither (None).
      predict: `predict(view, inputs, key=None) -> outputs`, what the trained model computes of inputs [B, ...]; None
        where there is no such function.
      inputs: `inputs(spec) -> spec` of what `predict` takes, where that is not the batch's inputs.
      exhibits: by name, what to look at.
      is_scaled: True if losses are differentiated after `scale_loss`, which `precision=float16` needs.
      models: the models by the sections that name them. The core fills it in.
    """

    init: Callable[..., TrainState]
    train_step: Callable[..., tuple[TrainState, Mapping[str, Any]]]
    eval_step: Callable[..., Mapping[str, Any]]
    results: Mapping[str, Callable[[Any, Any], float | Mapping[str, float]]] = MappingProxyType({})
    check: Callable[[Batch, Batch], tuple[int, str] | None] | None = None
    directions: Mapping[str, bool | None] = MappingProxyType({})
    predict: Callable[..., PyTree] | None = None
    inputs: Callable[[Batch], PyTree] | None = None
    exhibits: Mapping[str, Exhibit] = MappingProxyType({})
    is_scaled: bool = False
    models: Mapping[str, Model] = MappingProxyType({})


class Problem(NamedTuple):
    """Functions of a task that probes are made of: pure, in evaluation mode, of one run, on one device.

    Attributes:
      losses: `losses(params, state, batch) -> [B]`, float32: the loss of each example alone.
      loss: `loss(params, state, batch) -> []`, float32: the loss of a batch, as an evaluation reports it.
      update: `update(state, batch) -> state` after one step of training.
      predict: `predict(params, state, inputs) -> outputs`; None where the task predicts nothing.
      inputs: `inputs(batch, key) -> inputs` for `predict`: those of the batch, or normal noise where a task predicts
        from others, as the latent numbers of a gan are.
    """

    losses: Callable[[PyTree, TrainState, Batch], Array]
    loss: Callable[[PyTree, TrainState, Batch], Array]
    update: Callable[[TrainState, Batch], TrainState]
    predict: Callable[[PyTree, TrainState, PyTree], PyTree] | None = None
    inputs: Callable[[Batch, Array], PyTree] = lambda batch, key: batch["inputs"]


Probe = Callable[[Problem, TrainState, Batch, Array], Mapping[str, Array]]
"""`probe(problem, state, batch, key) -> {name: array}`, a pure JAX function, compiled as a program of its own. The core
runs it every few steps, on the training batch that comes next. Scalars are logged as `probe/<tag>/<name>`; arrays of
other shapes are shown as histograms."""


class Store(NamedTuple):
    """Two functions that write and read the arrays of one checkpoint; all else about checkpoints is the core's."""

    name: str  # as it is registered; a checkpoint says by it who can read it, so the factory must need no options
    place: str  # the file or folder within a checkpoint that is `path`
    write: Callable[[Path, Mapping[str, Any]], None]
    """`write(path, {name: array})`, in a thread; any dtypes but keys. All is flushed when it returns; else OSError."""
    read: Callable[[Path, Mapping[str, jax.ShapeDtypeStruct]], Mapping[str, Any]]
    """`read(path, {name: shape}) -> {name: array}`, perhaps of a part; a sharding that a shape has is to be taken where
    it can be. Where a file is damaged it raises any error but those of mistakes (TypeError, AttributeError, NameError,
    ImportError, AssertionError) and of memory, and need not notice: of these, no checkpoint counts as damaged."""
    everywhere: bool = True  # whether each of several processes can write with it; else the first writes all


class Parameter(NamedTuple):
    """One row of the parameter table."""

    path: str  # such as "0_Conv/W"
    shape: tuple[int, ...]
    dtype: str
    size: int
    origin: str = ""  # "loaded", "from <name>", "anew" or "frozen", where a run begins with another one's


class Node(NamedTuple):
    """One operation of a model's graph.

    Attributes:
      name: its layers and its operation, such as "0_Conv/add"; "0_Conv/W" of a parameter.
      op: the primitive of JAX, or "Input" or "Output".
      inputs: names of the nodes whose results it takes.
      shape: of its first result.
      dtype: of that.
      equation: the operation as JAX has it; None for an input or output.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    equation: Any = None


class History:
    """Metrics that a run has logged, oldest first. This one is empty; the core hands callbacks that of `metrics.jsonl`.

    It holds what earlier processes of a resumed run have logged, up to the step where the run goes on. The scalars of a
    step are in it before `on_log` is called with them.
    """

    def records(self, since: int = 0) -> Iterator[Mapping[str, float]]:
        """Yield one record for each step >= `since`: {"step": 10, "train/loss": 0.25, …}."""
        return iter(())

    def series(self, tag: str) -> list[tuple[int, float]]:
        """Return (step, value) for each step that logged a tag."""
        return [(int(record["step"]), record[tag]) for record in self.records() if tag in record]

    def last(self, tag: str) -> float | None:
        """Return the newest value of a tag; None if it was never logged."""
        values = self.series(tag)
        return values[-1][1] if values else None


class Media:
    """The taker of what callbacks show. This one forgets it; the core hands callbacks one that keeps it.

    The core writes files under the run folder's `media`, and tells each callback by `on_media`.
    """

    def show(self, tag: str, kind: Any, value: Any, step: int) -> None:
        """Take a point of a medium: `kind.of(value)`, under a tag such as "samples/digits".

        Raises: PluginError naming callback and tag if the value is not of that kind.
        """


def _not_running(*_: Any) -> Any:
    raise RuntimeError("this Run was made by hand; the core hands callbacks one that can")


class Run(NamedTuple):
    """Facts about a run that a callback may use, and what it can show and ask.

    Each `log_…(tag, value, step)` shows one medium. A point of a tag and a step stands once: a resumed run drops what
    lies beyond its step, and replaces what it shows again. Of several processes the first shows.
    """

    directory: Path
    name: str  # of the experiment
    config: Mapping[str, Any]  # resolved, plain dicts and lists
    start_step: int  # 0, or where a resumed run goes on
    total_steps: int
    steps_per_epoch: int
    batch_size: int
    parameters: tuple[Parameter, ...]
    facts: Mapping[str, str]  # devices, data source, versions: what the run record holds, in words
    is_known: bool = False  # the parameters are those of an earlier point of the same sweep, in this process
    state_bytes: int = 0  # of the whole state, as it is saved
    history: History = History()
    data_facts: Mapping[str, Any] = MappingProxyType({})  # `DataPipeline.facts`, such as "classes"
    id: str = ""  # that the run's checkpoints carry
    directions: Mapping[str, bool | None] = MappingProxyType({})
    """All tags that the run will log, but for a metric's suffixes: True where high values are good, False where low
    ones are, None where the metric does not say."""
    overrides: Mapping[str, str] = MappingProxyType({})
    """Choices of the command line when the run began, by key: {"seed": "2"}; without secrets."""
    members: tuple[Mapping[str, float], ...] = ()
    """Of several members, the values of each by key, its seed among them; `<tag>/<member>` is the tag of one."""
    media: Media = Media()
    log: Callable[[int, Mapping[str, float]], None] = _not_running
    """`log(step, scalars)` adds scalars of a step to those of the run, by tags of one's own such as `mine/number`. It
    may be called in `on_state` alone, with the step that this is given."""
    predict: Callable[[TrainState, PyTree], PyTree] = _not_running
    """`predict(state, inputs) -> outputs`: the model as it is evaluated, for inputs [B, ...] of any size, from a state
    as `on_state` has it under any strategy; of several members, the first. Not for a callback that says `everywhere`,
    where processes cut a state among them."""
    features: Callable[[TrainState, PyTree], PyTree] = _not_running
    """`features(state, inputs) -> [N, D]`: what the last layer that has parameters is given, for inputs as of
    `predict`, such as the outputs of a classifier's last hidden layer; the outputs of a model that shows no layers."""
    window: Callable[[], Mapping[str, Any]] = dict
    """`window()`: the training metrics since the last log, as JSON, which a saved state needs to go on with the same
    means; {} right after a log."""
    now: Callable[[], tuple[str, float]] = lambda: ("other", 0.0)
    """`now() -> (part, seconds)`: what the loop does at this moment, one of the parts of `perf/share/`, and for how
    long already. A thread of a callback may ask."""
    graph: Callable[[], tuple[Node, ...]] = tuple
    """`graph()` traces what the trained model computes, of several members the first; () where there is no such."""
    examples: Callable[[str, int], Batch] = _not_running
    """`examples(split, n) -> batch` of the first n examples [n, ...], NumPy arrays, or of all if there are fewer. A
    split is "train", before any augmentation, "eval", which is measured in training, or one that the data name."""

    def log_image(self, tag: str, image: Any, step: int) -> None:
        """Show a picture: pixels [H, W] or [H, W, C], or a grid of them, [N, H, W, C]; uint8, or float from 0 to 1."""
        self.media.show(tag, Image, image, step)

    def log_histogram(self, tag: str, values: Any, step: int) -> None:
        """Show how values of any shape are spread; those that are not finite are counted, not binned."""
        self.media.show(tag, Histogram, values, step)

    def log_text(self, tag: str, text: str | Text, step: int) -> None:
        """Show a text, which a viewer may render as Markdown."""
        self.media.show(tag, Text, text, step)

    def log_table(self, tag: str, table: Any, step: int) -> None:
        """Show a `Table`, columns {name: [N]}, or a list of rows {column: cell}."""
        self.media.show(tag, Table, table, step)

    def log_figure(self, tag: str, figure: Any, step: int) -> None:
        """Show a figure of matplotlib, as a picture."""
        self.media.show(tag, Figure, figure, step)

    def log_pr_curve(self, tag: str, curve: Any, step: int) -> None:
        """Show precision and recall of (labels, scores), each [N]; labels 0 or 1, scores from 0 to 1."""
        self.media.show(tag, PRCurve, curve, step)

    def log_embedding(self, tag: str, embedding: Any, step: int) -> None:
        """Show vectors [N, D], or an `Embedding`, which adds labels and pictures."""
        self.media.show(tag, Embedding, embedding, step)

    def log_audio(self, tag: str, audio: Audio, step: int) -> None:
        """Show a sound: `Audio(samples, rate)`, samples [T] or [T, C], int16 or float from -1 to 1."""
        self.media.show(tag, Audio, audio, step)


class Summary(NamedTuple):
    """The end of a run."""

    step: int
    scalars: Mapping[str, float]  # the last value of every tag
    status: str  # "done", "stopped" or "failed"
    seconds: float  # wall clock of the loop


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a callback to end the run in good order; its text says why."""


class Callback:
    """Something that watches a run by hooks, none of which changes a number.

    Attributes:
      every: steps between two calls of `on_state`; 0 for none before the end.
      everywhere: whether each of several processes calls it, which then has to agree with the others; else the first.
      saves: whether `on_state` saves the state, so that `framework tell RUN checkpoint` calls it between two periods.
    """

    every: int = 0
    everywhere: bool = False
    saves: bool = False

    def on_built(self, directions: Mapping[str, bool | None]) -> None:
        """Before the run folder is made: refuse a run that lacks what is wanted. `directions` are those of `Run`."""

    def on_start(self, run: Run) -> None:
        """Before the first step; once more, after `on_end`, where a run goes back to a checkpoint of its own."""

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of one step, on the host, by tag: `train/…`, `eval/…`, `test/…`, `perf/…`.

        Steps come in order. One step may come more than once, with other tags: first `train/…`, then `eval/…`. A run
        that goes on may begin with the evaluation of its step, once more if a process was killed after logging it."""

    def on_state(self, step: int, state: TrainState) -> None:
        """The state after `step` updates: every `every` steps and at the end. It is valid only during the call.
        A state that has lost numbers which were finite at first is not shown."""

    def ended_members(self) -> Mapping[int, str]:
        """Of several members, those that are to train no more, by number, each with the reason in words.

        It is asked before each compiled call, and a member that has ended stays so. A callback of a run that goes on
        must say the same again, as by what `run.history` holds."""
        return {}

    def on_media(self, step: int, tag: str, medium: Medium) -> None:
        """A medium that a callback has shown, checked; for a callback that writes media elsewhere, such as TensorBoard.

        It is called in the first process only, after every callback was started: what one of them shows before that
        comes then. It is not called after `on_end`; callbacks end in the reverse order of the config. A point that
        stands already may come again, where a run goes on from its step."""

    def settle(self, wait: bool) -> None:
        """Raise what failed in a thread of one's own: before each compiled call, and at the end, to `wait` for it."""

    def on_end(self, summary: Summary) -> None:
        """After the last step, also when the run failed."""


def updates(state: TrainState) -> int:
    """Count the updates made so far; of members, the largest count, since a frozen one made fewer."""
    return int(np.max(jax.device_get(state.step)))
