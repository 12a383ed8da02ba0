"""Use an exported program: this file needs jax, numpy and flatbuffers, and nothing else.

    python use.py                            check the program against the recorded pairs
    python use.py inputs.npy outputs.npy     compute outputs of inputs [B, ...], preprocessed as the model card says

In Python: `model = load("FOLDER"); outputs = model(inputs)`. Copy it wherever it is needed.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import jax.export
import jax.numpy as jnp
import numpy as np


def load(folder: str) -> Any:
    """Return the model as a function of inputs [B, ...]; jax.jit may compile it, and jax.grad if it has gradients."""
    place = Path(folder)
    facts = json.loads((place / "program.json").read_text())
    program = jax.export.deserialize(bytearray((place / "program.bin").read_bytes()))
    stored = arrays(place / "model.safetensors")
    leaves = [stored[name] for name in facts["arrays"]]
    return lambda inputs: program.call(leaves, inputs)


def arrays(path: Path) -> dict[str, Any]:
    """Read a file of the safetensors format: a JSON header, and the bytes of the arrays."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = (8 + length + place for place in entry["data_offsets"])
            found[name] = jnp.asarray(
                np.frombuffer(content[start:stop], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            )
    return found


DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "BOOL": np.bool_}
DTYPES |= {"I32": np.int32, "I16": np.int16, "I8": np.int8, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8}
DTYPES |= {"F64": np.float64, "I64": np.int64, "U64": np.uint64}


def tree(flat: dict[str, Any], prefix: str) -> Any:
    """Put arrays named "inputs", or "inputs/image" and so on, together as the program takes and returns them."""
    if prefix in flat:
        return flat[prefix]
    names = [name.removeprefix(f"{prefix}/") for name in flat if name.startswith(f"{prefix}/")]
    heads = dict.fromkeys(name.partition("/")[0] for name in names)
    parts = {head: tree(flat, f"{prefix}/{head}") for head in heads}
    return tuple(parts.values()) if all(head.isdecimal() for head in heads) else parts


def largest_difference(folder: str) -> float:
    """Compute the recorded pairs, and return the largest difference of an output, relative to 1 or its own size."""
    with np.load(Path(folder) / "pairs.npz") as file:
        pairs = {name: file[name] for name in file.files}
    if (size := json.loads((Path(folder) / "program.json").read_text())["batch"]) != "any":
        pairs = {name: np.resize(array, (size, *array.shape[1:])) for name, array in pairs.items()}  # one after another
    found, expected = jax.tree.leaves(load(folder)(tree(pairs, "inputs"))), jax.tree.leaves(tree(pairs, "outputs"))
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        worst = max(worst, float(np.max(np.abs(one - other) / np.maximum(1, np.abs(other)), initial=0)))
    return worst


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    if len(sys.argv) == 3:
        np.save(sys.argv[2], np.asarray(load(here)(np.load(sys.argv[1]))))
    else:
        print(f"largest difference from the recorded outputs: {largest_difference(here):.3g}")
