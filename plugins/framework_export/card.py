"""The model card of an exported model: where it comes from, how good it is, how to use it, and digests of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from framework.records.record import RunRecord
from framework.trained.exported import ARRAYS, RECIPE, digest
from framework.trained.inputs import described
from framework.trained.model_function import Trained


def card(
    model: Trained,
    record: RunRecord,
    metrics: Mapping[str, float],
    outputs: Any,
    formats: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> str:
    """Return the card in Markdown.

    Args:
      record: of the run.
      metrics: what the run logged of the model's step, by tag.
      outputs: of the recorded pairs.
      formats: by exporter, facts of what it wrote.
      folder: whose files are listed with their digests; all of them are written.
    """
    config, facts = model.config, model.facts
    name = config.get("model", config["task"])["name"]
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    shown = jax.tree.map(lambda leaf: f"{leaf.dtype} [{', '.join(['B', *map(str, leaf.shape[1:])])}]", outputs)
    lines = [f"# {name}: {record.name or 'a trained model'}, step {model.step}", "", "## The model", ""]
    lines += [f"* {count:,} parameters; task `{config['task']['name']}`, model `{name}`"]
    lines += [f"* inputs: {described(model.inputs)}", f"* outputs: {str(shown).replace(chr(39), '')}"]
    if (preprocess := facts.get("preprocess")) is not None:
        lines.append(f"* raw inputs are preprocessed by `{json.dumps(preprocess)}`")
    if (classes := facts.get("classes")) is not None:
        lines.append(f"* classes, in the order of the outputs: {', '.join(map(str, classes))}")
    lines += ["", "## Where it comes from", "", f"* data: {record.data}"]
    lines += [f"* run `{record.id}`, seed {config.get('seed', record.seed)}"]
    lines += [f"* versions: {', '.join(f'{package} {number}' for package, number in record.versions.items())}"]
    if metrics:
        lines += ["", "## Metrics", "", "| metric | value |", "|---|---|"]
        lines += [f"| {tag} | {value:.6g} |" for tag, value in metrics.items()]
    lines += ["", "## Use", "", f"* `framework.load(FOLDER)` builds it from `{RECIPE}` and `{ARRAYS}`, bit for bit."]
    lines += [f"* `{ARRAYS}` can be read without the framework, by every library that reads safetensors."]
    if "program" in formats:
        lines.append(
            "* `python use.py` runs `program.bin`, with jax, numpy and flatbuffers alone, and checks it by `pairs.npz`."
        )
    lines.append("* `pairs.npz` holds inputs, drawn at random, and the outputs that the model had for them.")
    for exporter, said in formats.items():
        lines += ["", f"## {exporter}", "", *(f"* {key}: {value}" for key, value in said.items())]
    lines += ["", "## Files", "", "| file | sha256 |", "|---|---|"]
    lines += [f"| {path.name} | `{digest(path)}` |" for path in sorted(folder.iterdir())]
    return "\n".join(lines) + "\n"
