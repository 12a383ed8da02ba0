"""A trained model as a program of JAX that runs without the framework."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.export

from framework.api import PyTree, Size, Task, View, leaves_by_path
from framework.errors import ConfigError, nearest, told, writing

MONTHS = 6
"""Months after an export in which JAX promises that later versions read it."""


PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def program(
    platforms: tuple[str, ...] = (), batch: Size | None = None, gradients: bool = False
) -> Callable[[Any, Path], Mapping[str, Any]]:
    """Export what the model computes by `jax.export`; `use.py` beside it runs it with jax and numpy alone.

    Args:
      platforms: that it is compiled for, such as [cpu, cuda, tpu]; by default that of this machine.
      batch: examples in a call; null takes any number, by a symbolic dimension.
      gradients: add the program of the gradients of first order.

    Raises: ConfigError for an unknown platform, or if flatbuffers is not installed; when called, if JAX cannot export
      the model so.
    """

    if unknown := [each for each in platforms if each not in PLATFORMS]:
        raise ConfigError(f"there is no platform '{unknown[0]}'.{nearest(unknown[0], PLATFORMS)}", key="platforms")
    if find_spec("flatbuffers") is None:
        raise ConfigError("a program needs flatbuffers, which is not installed; pip install framework[export].")

    def export(model: Any, folder: Path) -> Mapping[str, Any]:
        view = {"params": model.params, "model_state": model.model_state, "task_state": model.task_state}
        leaves, call = leaves_by_path(view), _call(model.task, view)
        chosen = list(platforms) or [jax.default_backend()]
        try:
            exported = jax.export.export(jax.jit(call), platforms=chosen)(
                _shapes(leaves.values()), _inputs(model, batch)
            )
            content = exported.serialize(vjp_order=int(gradients))
        except Exception as error:  # JAX raises many kinds, for what it cannot export
            text = f"jax.export refuses the model for {', '.join(chosen)}: {told(error).splitlines()[0]}"
            fix = "; set program.batch=128 if its batch must have one size" if batch is None else ""
            raise ConfigError(f"{text}{fix}.", key="program") from error
        today = datetime.date.today()
        facts = {
            "jax": jax.__version__,
            "calling_convention": exported.calling_convention_version,
            "platforms": list(exported.platforms),
            "batch": "any" if batch is None else batch,
            "gradients": gradients,
            "exported": today.isoformat(),
            "read_until": (today + datetime.timedelta(days=30 * MONTHS)).isoformat(),
            "arrays": list(leaves),
        }
        with writing(folder):
            (folder / "program.bin").write_bytes(content)
            (folder / "program.json").write_text(json.dumps(facts, indent=2) + "\n")
            shutil.copyfile(Path(__file__).with_name("use.py"), folder / "use.py")
        return _card(facts)

    return export


def _call(task: Task, view: PyTree) -> Callable[[list[Any], PyTree], PyTree]:
    """Make a function of the arrays and of inputs, whose outputs are arrays, or mappings of them."""
    structure = jax.tree.structure(view)

    def call(leaves: list[Any], inputs: PyTree) -> PyTree:
        assert task.predict is not None
        outputs = task.predict(View(**jax.tree.unflatten(structure, leaves)), inputs)
        found = leaves_by_path(outputs)
        return found.get("", found)  # a single array has no path

    return call


def _shapes(leaves: Any) -> list[Any]:
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]


def _inputs(model: Any, batch: int | None) -> PyTree:
    (size,) = jax.export.symbolic_shape("batch") if batch is None else (batch,)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), model.inputs)


def _card(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the model card says of the program."""
    promise = f"JAX promises that its versions up to {facts['read_until']} can read it"
    return {
        "program.bin": f"written by jax {facts['jax']}; {promise}, and those of up to 3 weeks before",
        "platforms": ", ".join(facts["platforms"]),
        "batch": facts["batch"],
        "gradients": "of first order" if facts["gradients"] else "none",
    }
