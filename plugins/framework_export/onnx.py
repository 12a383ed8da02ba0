"""A trained model as an ONNX file, by jax2onnx, held against the recorded pairs by onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from framework.api import View, leaves_by_path
from framework.errors import ConfigError, told

FILE = "model.onnx"
NEEDED = ("jax2onnx", "onnxruntime")


def onnx(opset: int = 23, tolerance: float = 1e-4) -> Callable[[Any, Path], Mapping[str, Any]]:
    """Write what the model computes, for a batch of any size, as an ONNX file, which many runtimes read.

    Args:
      opset: version of ONNX's operators.
      tolerance: largest difference of onnxruntime's outputs from the recorded ones that is accepted, as a share of the
        largest recorded output; the default leaves room for the rounding of float32 in deep networks.

    Raises: ConfigError if jax2onnx or onnxruntime is not installed; when called, if an operation of the model has no
      conversion, the conversion fails, or the outputs differ by more.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f"ONNX needs {missing[0]}, which is not installed; pip install framework[onnx].")

    def export(model: Any, folder: Path) -> Mapping[str, Any]:
        view = View(model.params, model.model_state, model.task_state)
        named, structure = leaves_by_path(model.inputs), jax.tree.structure(model.inputs)
        kinds = {name: (leaf.shape[1:], leaf.dtype or "float32") for name, leaf in named.items()}

        def call(*inputs: Any) -> list[Any]:
            outputs = model.task.predict(view, jax.tree.unflatten(structure, inputs))
            return list(leaves_by_path(outputs).values())

        with _quiet():
            _check_operations(call, [jax.ShapeDtypeStruct((2, *shape), dtype) for shape, dtype in kinds.values()])
            names = ["inputs" if not name else f"inputs/{name}" for name in named]
            try:
                import_module("jax2onnx").to_onnx(
                    call,
                    [jax.ShapeDtypeStruct(("B", *shape), dtype) for shape, dtype in kinds.values()],
                    opset=opset,
                    input_names=names,
                    return_mode="file",
                    output_path=str(folder / FILE),
                )
            except Exception as error:  # of many kinds, for what it cannot convert
                raise ConfigError(f"jax2onnx fails on the model: {told(error).splitlines()[0]}", key="onnx") from error
            difference = _difference(folder, names)
        if not difference <= tolerance:
            text = f"outputs of {FILE} differ from the model's by {difference:.1g} of the largest"
            raise ConfigError(f"{text}, expected {tolerance:g} or less; onnx.tolerance sets it.", key="onnx")
        versions = ", ".join(f"{name} {version(name)}" for name in (*NEEDED, "jax"))
        return {
            FILE: f"opset {opset}, for a batch of any size; inputs: {', '.join(names)}",
            "parity": f"by onnxruntime, outputs of pairs.npz differ by {difference:.1e} of the largest at most",
            "written by": versions,
        }

    return export


def _check_operations(call: Callable[..., Any], inputs: list[Any]) -> None:
    """Name the first operation that jax2onnx does not know, and the layer it is of, before a long conversion.

    Raises: ConfigError.
    """
    system = import_module("jax2onnx.plugins.plugin_system")
    system.import_all_plugins()
    for operation, layer in _operations(jax.make_jaxpr(call)(*inputs).jaxpr, ""):
        if operation not in system.PLUGIN_REGISTRY:
            place = f" of the layer {layer}" if layer else ""
            raise ConfigError(f"jax2onnx has no conversion of '{operation}'{place}; export a program.", key="onnx")


def _operations(jaxpr: Any, scope: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the layer of each operation, also of the programs inside of operations."""
    for equation in jaxpr.eqns:
        layer = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        yield equation.primitive.name, layer
        for option in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(option):
                yield from _operations(getattr(option, "jaxpr", option), layer)


def _is_program(option: Any) -> bool:
    return isinstance(option, Jaxpr | ClosedJaxpr)


def _difference(folder: Path, names: list[str]) -> float:
    """Return the largest difference of onnxruntime's outputs from the recorded ones, by the largest recorded one."""
    session = import_module("onnxruntime").InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    with np.load(folder / "pairs.npz") as pairs:
        given = {each.name: pairs[name] for each, name in zip(session.get_inputs(), names, strict=True)}
        recorded = [pairs[name] for name in pairs.files if name.split("/")[0] == "outputs"]
    found = session.run(None, given)
    return max(
        float(np.abs(np.float64(a) - np.float64(b)).max() / max(np.abs(np.float64(b)).max(), 1e-30))
        for a, b in zip(found, recorded, strict=True)
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what other libraries say of themselves, and let jax2onnx mix dtypes, as JAX does by default."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
