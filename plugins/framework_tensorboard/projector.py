"""Embeddings as the files of the PROJECTOR tab, which reads files below the folder of the events only."""

from __future__ import annotations

import json
import re
from pathlib import Path

from framework.api import Embedding
from framework.errors import writing

CONFIG = "projector_config.pbtxt"
FOLDER = "projector"

NAME = re.compile(r"(?P<stem>(?P<tag>.+)@(?P<step>\d+))\.(tsv|labels\.tsv|(?P<width>\d+)x(?P<height>\d+)\.png)")
"""The name of a file: tag and step, then its ending; that of sprites says the size of one."""


def write_embedding(folder: Path, step: int, tag: str, medium: Embedding) -> None:
    """Write an embedding in place of an older one of the same tag.

    Args:
      folder: of the event files.
    """
    place, tag = folder / FOLDER, tag.replace("/", "~")
    with writing(place):
        place.mkdir(exist_ok=True)
        older = [path for path, name in _files(folder) if name["tag"] == tag]
        files = dict(medium.files())
        if medium.sprites is not None:
            height, width = medium.sprites.shape[1:3]
            files[f"{width}x{height}.png"] = files.pop("sprites.png")
        written = [place / f"{tag}@{step}.{ending}" for ending in files]
        for path, content in zip(written, files.values(), strict=True):
            path.write_bytes(content)
        _remove(folder, [path for path in older if path not in written])


def cut_embeddings(folder: Path, step: int) -> None:
    """Remove the embeddings beyond a step; all, for step 0."""
    with writing(folder / CONFIG):
        _remove(folder, [path for path, name in _files(folder) if step == 0 or int(name["step"]) > step])


def _files(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    paths = sorted((folder / FOLDER).glob("*"))
    return [(path, name) for path in paths if (name := NAME.fullmatch(path.name)) and not path.is_symlink()]


def _remove(folder: Path, paths: list[Path]) -> None:
    """Remove files, and say in the config which embeddings are left. It is replaced first: no reader misses a file."""
    groups: dict[str, list[re.Match[str]]] = {}
    for path, name in _files(folder):
        if path not in paths:
            groups.setdefault(name["stem"], []).append(name)
    path = folder / CONFIG
    if groups:
        partial = path.with_name(f".{CONFIG}.partial")
        partial.write_text("".join(_entry(stem, names) for stem, names in groups.items()))
        partial.replace(path)
    else:
        path.unlink(missing_ok=True)
    for each in paths:
        each.unlink(missing_ok=True)


def _entry(stem: str, names: list[re.Match[str]]) -> str:
    """Return the entry of an embedding, as a text of `ProjectorConfig`."""

    def quoted(ending: str) -> str:
        return json.dumps(f"{FOLDER}/{stem}.{ending}")

    title = f"{names[0]['tag'].replace('~', '/')}, step {names[0]['step']}"
    lines = [f"tensor_name: {json.dumps(title)} tensor_path: {quoted('tsv')}"]
    if any(name[0].endswith(".labels.tsv") for name in names):
        lines.append(f"metadata_path: {quoted('labels.tsv')}")
    for name in names:
        if name["width"]:
            size = f"single_image_dim: {name['width']} single_image_dim: {name['height']}"
            lines.append(f"sprite {{ image_path: {quoted(name['width'] + 'x' + name['height'] + '.png')} {size} }}")
    return f"embeddings {{ {' '.join(lines)} }}\n"
