"""The core's own sections of a config; their fields are a schema just as a factory's parameters are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple


class Train(NamedTuple):
    """Section `train`: how long, and how often what happens. All periods count updates; 0 means never."""

    steps: int | None = None  # updates in all; when null, `epochs` decides
    epochs: int | None = 1
    log_every: int = 50
    log_last_step: bool = False  # also log the metrics of the last step alone, as train_step/…
    eval_every: int | None = None  # null: an epoch, or a tenth of the run where that is less, but at least 10 steps
    checkpoint_every: int = 0
    accumulate: int = 1  # parts that a batch is cut into, to fit into memory; their gradients are summed
    skips_in_row: int = 10  # updates that nan_policy=skip undoes before it gives up: ten batches are not all bad
    steps_per_call: int | Literal["auto"] = "auto"  # steps in one compiled call
    retraces: Literal["warn", "error"] = "warn"  # what follows if the train step is traced more than once
    resident_mib: int = 1024  # training examples in memory go to the device whole up to this size; 0 for never


class RunSettings(NamedTuple):
    """Section `run`: where the run folder goes."""

    root: str = "runs"
    dir: str | None = None  # this very folder instead of a fresh one under root
    name: str | None = None  # of the experiment; null takes the name of its config
    resume: Literal["auto"] | None = None  # auto: go on with the run in `dir` if there is one
    compilation_cache: bool = True  # keep compiled programs in the user's cache folder
    compilation_cache_size: int | str = "2GiB"  # what that folder may hold; programs unused for longest are removed
    recorder: bool = True  # keep the first step that is not finite in the folder nan/, for `framework replay`
    watchdog: float = 300.0  # seconds that a process waits for the others before it ends; 0: for ever


class Distributed(NamedTuple):
    """Section `distributed`: the processes that are one run. `distributed=auto` is short for that coordinator."""

    coordinator: str | None = None  # host:port of process 0; auto: as SLURM, Open MPI, Kubernetes or the TPU pod say
    processes: int | None = None
    process: int | None = None  # which of them this is, from 0
    timeout: int = 300  # seconds in which all must have come


class Debug(NamedTuple):
    """Section `debug`: JAX's own switches, by what they catch, and presets that make a run short.

    The presets are settings of their own. Files that set other keys would lose to an experiment, composed last.
    """

    nans: bool = False  # jax_debug_nans: stop at the first operation that makes a NaN
    infs: bool = False  # jax_debug_infs
    eager: bool = False  # jax_disable_jit: run op by op, so that print and pdb work
    leaks: bool = False  # jax_check_tracer_leaks
    keys: bool = False  # jax_debug_key_reuse
    transfers: bool = False  # jax_transfer_guard=disallow: no implicit transfer between host and device
    compiles: bool = False  # jax_log_compiles
    checks: bool = False  # jax_enable_checks
    profile: tuple[int, int] | None = None  # the first and the last step to record by jax.profiler, counted from 1
    limit: int | None = None  # batches of the training and of each evaluation, at most
    overfit: int | None = None  # steps with the first batch alone, at most, until its loss is near 0
    fast: bool = False  # one step of everything, a checkpoint, and one step of the run that goes on from it


class InitFrom(NamedTuple):
    """Section `init_from`: parameters and states that a run begins with. `init_from=RUN` is short for its source."""

    source: str  # a run folder, RUN@500 or RUN@best, an exported model, or a file .safetensors or .npz
    map: Mapping[str, str] = MappingProxyType({})  # from names of the model, or of layers, to those of the source
    anew: tuple[str, ...] = ()  # patterns of names of the model that are initialised all the same
    unused: tuple[str, ...] = ()  # patterns of names of the source that are left out


NanPolicy = Literal["stop", "skip", "rollback", "ignore"]
"""Answers to an update that is not finite: end the run; undo the update; go back to the last checkpoint; do nothing."""

Precision = Literal["float32", "bfloat16", "float16"]
"""The floats that models compute in. Parameters, optimizer state, losses and metrics are float32 in any case."""
