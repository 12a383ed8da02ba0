"""The verb `export`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.command import Command
from framework.commands.arguments import Arguments
from framework.errors import ConfigError, StorageError, blaming, writing
from framework.startup import import_jax

if TYPE_CHECKING:
    from framework.trained.model_function import Trained

PAIRS = 8
"""Recorded examples."""


def export() -> Command:
    """Write a trained model in forms that last."""
    return Command("export", "write a trained model for use without its run", run, group="train")


def run(words: list[str]) -> None:
    """Export a trained model to a folder.

    Raises: FrameworkError.
    """
    arguments = Arguments(
        "export",
        "Write a trained model to a folder: its arrays as safetensors with a recipe that builds it again, a program of "
        "jax.export, recorded inputs and outputs, and a model card. `framework plugins exporters` lists other formats "
        "and the options of each.",
        "export runs/mnist/mine@best --to digits program.platforms=[cpu,cuda]",
        "RUN --to FOLDER [FORMAT.OPTION=VALUE ...] [options]",
    )
    arguments.add_trained()
    arguments.add_argument("words", nargs="*", metavar="FORMAT.OPTION=VALUE", help="option of a format")
    arguments.add_argument(
        "--to", metavar="FOLDER", required=True, help="where to write: a new folder, or an empty one"
    )
    about = "a format beside the arrays; can be given again (program)"
    arguments.add_argument("--format", action="append", metavar="NAME", help=about)
    given = arguments.read(words)
    folder, formats = Path(given.to), _formats(given.format or ["program"], given.words)
    _check_free(folder)
    import_jax()
    from framework.records.logs import console
    from framework.sweeps.best import best_run
    from framework.trained.trained_model import load

    with console():
        model = load(best_run(given.run), member=given.member)
    sys.stdout.write("\n".join(exported(model, folder, formats, given.member)) + "\n")


def _formats(names: list[str], words: list[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each format.

    Raises: ConfigError for a word that is no option of a chosen format.
    """
    from omegaconf import OmegaConf

    from framework.config.policy import check_content

    formats: dict[str, dict[str, Any]] = {name: {} for name in names}
    for word in words:
        key, equals, _ = word.partition("=")
        name, _, option = key.partition(".")
        if not equals or name not in formats or not option or "." in option:
            chosen = ", ".join(f"{name}.OPTION=VALUE" for name in formats)
            raise ConfigError(f"export: expected {chosen}, found '{word}'; --format chooses formats.")
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={word.partition('=')[2]}"]), resolve=False)
        except Exception as error:  # OmegaConf's and YAML's
            text = f"export: '{word}' cannot be read; expected a value such as true, 3 or [cpu,cuda]."
            raise ConfigError(text) from error
        assert isinstance(value, dict)
        check_content(value)
        formats[name][option] = value["value"]
    return formats


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} exists, and holds something; export to another folder.", key="--to")


def exported(model: Trained, folder: Path, formats: Mapping[str, Mapping[str, Any]], member: Any = 0) -> list[str]:
    """Write a trained model to a folder, which appears once it is whole.

    Args:
      formats: options by the name of each exporter.
      member: the one that the model is, of a run that trained several.

    Returns: lines that say what was written.

    Raises: FrameworkError.
    """
    import jax
    import numpy as np

    from framework.registry.builder import Builder
    from framework.registry.entry_points import discover
    from framework.trained.exported import write
    from framework.trained.places import member_of
    from framework_export.card import card

    builder = Builder(discover())
    exporters = {name: builder.named("exporters", {"name": name, **options}, name) for name, options in formats.items()}
    inputs = _inputs(model)
    outputs = jax.device_get(model(inputs))
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        write(model, partial)
        with writing(partial):
            np.savez(partial / "pairs.npz", **_named("inputs", inputs), **_named("outputs", outputs))  # pyright: ignore
        facts = {}
        for name, exporter in exporters.items():
            with blaming(f"{builder.used[name].title} failed"):
                facts[name] = exporter(model, partial)
        record = model.record()
        metrics = _metrics(model, record, member_of(record, member) if record.members else 0)
        text = card(model, record, metrics, outputs, facts, partial)
        with writing(folder):
            (partial / "README.md").write_text(text)
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    lines = [f"{path.name:<20} {path.stat().st_size:>12,} bytes" for path in sorted(folder.iterdir())]
    said = [f"{name}: {key}: {value}" for name, each in facts.items() for key, value in each.items()]
    return [f"step {model.step} of {model.directory}, exported to {folder}", *lines, *said]


def _inputs(model: Trained) -> Any:
    """Draw inputs: floats from a normal distribution, integers 0 and 1, which every vocabulary has."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    draw = np.random.default_rng(0)

    def drawn(leaf: Any) -> np.ndarray:
        shape, dtype = (PAIRS, *leaf.shape[1:]), leaf.dtype or "float32"
        is_real = jnp.issubdtype(dtype, jnp.floating)
        return (draw.normal(size=shape) if is_real else draw.integers(0, 2, shape)).astype(dtype)

    return jax.tree.map(drawn, model.inputs)


def _named(name: str, tree: Any) -> dict[str, Any]:
    from framework.api import leaves_by_path

    return {f"{name}/{path}" if path else name: leaf for path, leaf in leaves_by_path(tree).items()}


def _metrics(model: Trained, record: Any, member: int) -> dict[str, float]:
    """Return what the run logged of the model's step; of a model that was exported before, nothing is known.

    Args:
      member: whose values are taken, in the place of means over all, of a run that trained several.
    """
    from framework.records.history import MetricsFile

    for found in MetricsFile(model.directory, record.id).records(model.step):
        if found["step"] == model.step:
            logged = {tag: value for tag, value in found.items() if tag.startswith(("eval/", "test/"))}
            own = f"/{member}"
            return (
                {tag.removesuffix(own): logged[tag] for tag in logged if tag.endswith(own)}
                if record.members
                else logged
            )
    return {}
