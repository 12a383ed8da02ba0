"""The contracts between the core and its plugins: three shapes, no more.

A pair of pure functions (model, optimizer, store), a function to per-example values (loss, metric), and an object with
a few methods (data, strategy, callback). An entry point names a factory of one; its signature is its options' schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any
Shape = Any
"""A shape whose leading -1 stands for the batch, such as (-1, 28, 28, 1), or a pytree of shapes."""

Batch = Mapping[str, PyTree]
"""Keys "inputs", "targets" and, where examples count unequally, "weights" [B]; every leaf has leading axis B."""

Loss = Callable[[PyTree, Batch], Array]
"""`loss(outputs, batch) -> [B]`, one value per example. The core takes the weighted mean."""

Schedule = Callable[[Array], Array]
"""`schedule(step) -> rate`, both scalars; step counts updates from 0."""

Transform = Callable[[Array, Batch], Batch]
"""`transform(key, batch) -> batch`, a pure JAX function that runs inside the compiled train step."""


class Model(NamedTuple):
    """A network, or one layer of it, as two pure functions. Its name, for messages and paths, is `layer_name(model)`.

    Attributes:
      init: `init(key, in_shape) -> (out_shape, params, state)`. Shapes are tuples (or pytrees of them) whose leading
        -1 is the batch. `state` is what changes without a gradient, such as running averages; `()` if nothing does.
      apply: `apply(params, state, inputs, *, key=None, train=False) -> (outputs, state)`.
    """

    init: Callable[..., tuple[Shape, PyTree, PyTree]]
    apply: Callable[..., tuple[PyTree, PyTree]]


class Metric(NamedTuple):
    """A metric that is not the mean of one value per example.

    Attributes:
      values: `values(outputs, batch) -> [B, ...]`, a statistic of any trailing shape for each example.
      result: `result(total, count) -> float or {suffix: float}`, from the weighted sum of the statistics over all
        examples (shape [...], NumPy float64) and the summed weight. It runs on the host.
    """

    values: Callable[[PyTree, Batch], Array]
    result: Callable[[Any, float], float | Mapping[str, float]]


class TrainState(NamedTuple):
    """One pytree, the whole truth of a run."""

    step: Array  # int32 [], updates made so far
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    key: Array  # the root key: derived from, never consumed


class Task(NamedTuple):
    """What a step does, as pure functions that the loop and the strategies are handed.

    Attributes:
      init: `init(key, spec) -> TrainState`, where spec holds a `jax.ShapeDtypeStruct` [B, ...] for each leaf.
      train_step: `train_step(state, batch, axis=None) -> (state, {name: (total, count)})`.
      eval_step: `eval_step(state, batch, axis=None) -> {name: (total, count)}`.
      results: by name, what turns a total and a count into numbers, as `Metric.result` does; by default it divides.
    """

    init: Callable[..., TrainState]
    train_step: Callable[..., tuple[TrainState, Mapping[str, Any]]]
    eval_step: Callable[..., Mapping[str, Any]]
    results: Mapping[str, Callable[[Any, float], float | Mapping[str, float]]]


class DataPipeline(Protocol):
    """Batches of NumPy arrays. Batch k is a pure function of (seed, k), so there is nothing to save or restore.

    A pipeline may have more: `facts`, a mapping for JSON of what one must know to use a trained model, which goes into
    the run's record and is `framework.load(RUN).facts`; `ready()`, called once the rest is built, which waits for what
    a thread of its factory still reads; what `stepping.Indexed` says, for examples in memory; and for several processes
    `restricted(share: Share) -> DataPipeline`, of the same batches, of which `train` and `eval` make only the examples
    at `share.rows(size)`, size being that of the whole batch. All else stays that of whole batches, `spec` too.

    Attributes:
      spec: a training batch with `jax.ShapeDtypeStruct` leaves [B, ...].
      steps_per_epoch: training batches in one pass over the training split.
      splits: names that `eval` takes, the one for evaluation during training first.
      source: where the data came from, in words, for the run record.
    """

    @property
    def spec(self) -> Batch: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> str: ...

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, … without end."""
        ...

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield every example of a split once; the last batch is padded with examples of weight 0."""
        ...


class Members(NamedTuple):
    """Runs that differ in some numbers only, trained as one.

    Attributes:
      size: how many.
      values: for each config key that differs, "seed" or such as "optimizer.learning_rate", one number for each member.
        Where "seed" is missing, all have the seed of the run; where nothing differs, their seeds count up from it.
      order: whether a member's data come in the order of its own seed, or all see those of the run's.
    """

    size: int
    values: Mapping[str, tuple[float, ...]]
    order: Literal["own", "shared"]


class Strategy(Protocol):
    """How the pure functions of a task become compiled ones, and where batches go.

    A strategy may have, beside what stands below:
      members: `Members`. The task that it then compiles is that of all members: every leaf of the state has the members
        as its first axis, and if their orders are their own, so has every leaf of a training batch.
      placement: `placement(shapes) -> shardings`, where it cuts the state: a saved one is read into them leaf by leaf.
      share: `Share`, where it can run in several processes: which parts of a batch the devices of this process take.
        Its `feed` then gets those, one after the other; the means of its steps are the same in all processes.

    Attributes:
      devices: into how many equal parts a batch is cut.
    """

    @property
    def devices(self) -> int: ...

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state as `init(given)`, from a key or from a saved state, placed where the steps want it."""
        ...

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[[TrainState, PyTree], tuple[TrainState, PyTree]]:
        """Compile `step(state, feed, axis)`; the state that goes in is given up to the one that comes out.

        `axes` says for each leaf of the feed, or for a whole part of it, which axis counts examples and may be cut over
        devices: 0 for a batch; None for what every device needs whole.
        """
        ...

    def evaluate(self, step: Callable[..., Any]) -> Callable[[TrainState, Batch], Mapping[str, Any]]:
        """Compile `step(state, batch, axis)`; the state stays valid."""
        ...

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Take NumPy arrays to the devices, in the layout that the steps want; `axes` as for `train`."""
        ...


class Store(NamedTuple):
    """How the arrays of one checkpoint are written and read; all else about checkpoints is the core's."""

    name: str  # as it is registered; a checkpoint says by it who can read it, so the factory must need no options
    place: str  # the file or folder within a checkpoint that is `path`
    write: Callable[[Path, Mapping[str, Any]], None]
    """`write(path, {name: array})`, in a thread; any dtypes but keys. All is flushed when it returns; else OSError."""
    read: Callable[[Path, Mapping[str, jax.ShapeDtypeStruct]], Mapping[str, Any]]
    """`read(path, {name: shape}) -> {name: array}`, perhaps of a part; a sharding that a shape has is to be taken where
    it can be. Where a file is damaged it may raise anything, and need not notice."""
    everywhere: bool = True  # whether each of several processes can write with it; else the first writes all


class Parameter(NamedTuple):
    """One row of the parameter table."""

    path: str  # such as "0_Conv/W"
    shape: tuple[int, ...]
    dtype: str
    size: int


class Run(NamedTuple):
    """What a callback may know of the run it serves."""

    directory: Path
    name: str  # of the experiment
    config: Mapping[str, Any]  # resolved, plain dicts and lists
    start_step: int  # 0, or where a resumed run goes on
    total_steps: int
    steps_per_epoch: int
    batch_size: int
    parameters: tuple[Parameter, ...]
    facts: Mapping[str, str]  # devices, data source, versions: what the run record holds, in words
    state_bytes: int = 0  # of the whole state, as it is saved


class Summary(NamedTuple):
    """How a run ended."""

    step: int
    scalars: Mapping[str, float]  # the last value of every tag
    status: str  # "done", "stopped" or "failed"
    seconds: float  # wall clock of the loop


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a callback to end the run in good order; its text says why."""


class Callback:
    """Something that watches a run: five hooks, none of which changes a number.

    Attributes:
      every: steps between two calls of `on_state`; 0 for none before the end.
      everywhere: whether each of several processes calls it, which then has to agree with the others; else the first.
    """

    every: int = 0
    everywhere: bool = False

    def on_start(self, run: Run) -> None:
        """Before the first step; once more, after `on_end`, where a run goes back to a checkpoint of its own."""

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of one step, on the host, by tag: `train/…`, `eval/…`, `test/…`, `perf/…`.

        Steps come in order. One step may come more than once, with other tags: first `train/…`, then `eval/…`. A run
        that goes on may begin with the evaluation of its step, once more if a process was killed after logging it."""

    def on_state(self, step: int, state: TrainState) -> None:
        """The state after `step` updates: every `every` steps and at the end. It is valid only during the call.
        A state that has lost numbers which were finite at first is not shown."""

    def settle(self, wait: bool) -> None:
        """Raise what failed in a thread of one's own: before each compiled call, and at the end, to `wait` for it."""

    def on_end(self, summary: Summary) -> None:
        """After the last step, also when the run failed."""
