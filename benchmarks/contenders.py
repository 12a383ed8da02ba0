"""Contenders: functions of workload and plan, whose libraries are imported only in the process that runs them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks import framework_run
from benchmarks.workloads import Marks, Plan, Workload


class Contender(NamedTuple):
    """One way to train.

    Attributes:
      about: what it is, for the table.
      run: trains, and tells when how many steps were finished.
      start: whether its time to the first step is that of a whole program, as a user would write it.
      cached: whether it finds its compiled programs in a cache that a first, uncounted trial filled.
      needs: the module that must be installed.
    """

    about: str
    run: Callable[[Workload, Plan], Marks]
    start: bool = True
    cached: bool = False
    needs: str = "jax"

    @property
    def installed(self) -> bool:
        """Tell whether it can run here."""
        return find_spec(self.needs) is not None


def _loop(of: str, network: str, workload: Workload, plan: Plan) -> Marks:
    from benchmarks import gpt, handwritten

    loop = getattr(gpt if workload.is_text else handwritten, of)
    if workload.is_text and network == "stax":
        return loop(gpt.plain_network(), plan)
    if network == "stax":
        return loop(handwritten.stax_network(workload.layers), plan)
    return loop(handwritten.framework_network(workload), plan)


def _peer(module: str, workload: Workload, plan: Plan) -> Marks:
    return import_module(f"benchmarks.peers.{module}").run(workload, plan)


def _mode(name: str) -> Contender:
    overrides = framework_run.MODES[name]
    run = partial(framework_run.run, mode=overrides)
    cached = "run.compilation_cache=false" not in overrides
    return Contender(f"framework.run, {' '.join(overrides) or 'default'}", run, cached=cached)


CONTENDERS: dict[str, Contender] = {
    "jit-stax": Contender("jit loop by hand, stax as written; w4: plain jax.nn", partial(_loop, "step_loop", "stax")),
    "jit-layers": Contender("jit loop by hand, same layers", partial(_loop, "step_loop", "framework"), start=False),
    "scan-stax": Contender("scan by hand, stax as written", partial(_loop, "epoch_scan", "stax"), start=False),
    "scan-layers": Contender("scan by hand, same layers", partial(_loop, "epoch_scan", "framework"), start=False),
    **{name: _mode(name) for name in framework_run.MODES},
    "torch": Contender("torch, plain loop", partial(_peer, "torch_loop"), needs="torch"),
    "lightning": Contender("Lightning, usual hooks", partial(_peer, "lightning_fit"), needs="lightning"),
    "keras": Contender("Keras on JAX, fit", partial(_peer, "keras_fit"), needs="keras"),
    "flax": Contender("Flax NNX, jit loop", partial(_peer, "flax_loop"), needs="flax"),
}

BASELINES = ("jit-stax", "jit-layers", "scan-layers")
"""The contenders that ratios are taken against, if they take part."""


def unasked(workload: Workload) -> list[str]:
    """Those that run a workload when none are named: loops by hand, the framework, and peers that are installed."""
    names = ["jit-stax", "jit-layers", *(["scan-layers"] if workload.scan else []), "framework", "framework-step"]
    return names + [name for name in workload.peers if CONTENDERS[name].installed]
