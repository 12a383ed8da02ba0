"""JAX as the tests want it, with two CPU devices and strict dtype promotion; and packages that a test installs."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import jax
import pytest

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "framework-tests-jax"))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
# Most programs of the tests are tiny, and many are compiled again and again: by each worker, file and process.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution for the length of a test; returns the folder that was put on the path.

    `install("acme", {"framework.models": {"wide": "acme_models:wide"}}, {"acme_models.py": "def wide(): ..."})`.
    The entry points may be the raw text of entry_points.txt, and the metadata the raw text of METADATA or None.
    """
    site = tmp_path / "site"

    def install(name, entry_points, files=(), version="1.0", metadata=""):
        folder = site / f"{len(list(site.glob('*')))}"
        info = folder / f"{name}-{version}.dist-info"
        texts = {folder / path: text for path, text in dict(files).items()}
        if not isinstance(entry_points, str):
            entry_points = "".join(
                f"[{group}]\n" + "".join(f"{entry} = {target}\n" for entry, target in entries.items())
                for group, entries in entry_points.items()
            )
        texts[info / "entry_points.txt"] = entry_points
        if metadata is not None:
            texts[info / "METADATA"] = metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield install
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin).is_relative_to(site):
            del sys.modules[name]
