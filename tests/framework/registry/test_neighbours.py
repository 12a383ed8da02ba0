"""Packages that are installed beside others: names of ours that they claim, settings of JAX that they change."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import jax
import pytest

from framework.errors import PluginError
from framework.registry.entry_points import discover
from framework.testing import train

BODY = "def jit(): raise RuntimeError('built')"


def test_a_package_that_claims_a_name_of_ours_is_asked_for_by_its_own(tmp_path, install):
    install("acme", {"framework.strategies": {"jit": "acme_jit:jit"}}, {"acme_jit.py": BODY})
    assert discover().find("strategies", "jit", "strategy").distribution == "framework"
    assert train(tmp_path, "train.steps=2").status == "done"
    with pytest.raises(PluginError, match=r"strategy 'jit' \(acme 1.0\) cannot be built: RuntimeError: built"):
        train(tmp_path, "train.steps=2", "strategy.name=acme:jit")


def test_an_import_that_changes_the_numbers_of_all_runs_is_told(install, caplog):
    body = "import jax\njax.config.update('jax_default_matmul_precision', 'float32')\ndef wide(): ..."
    install("acme", {"framework.models": {"wide": "acme_wide:wide"}}, {"acme_wide.py": body})
    before = jax.config.jax_default_matmul_precision
    logger = logging.getLogger("framework")
    logger.addHandler(caplog.handler)
    try:
        discover().find("models", "wide", "model").load()
    finally:
        logger.removeHandler(caplog.handler)
        jax.config.update("jax_default_matmul_precision", before)
    line = caplog.messages[0]
    assert line.startswith("the import of model 'wide' (acme 1.0, acme_wide:wide) set jax_default_matmul_precision")


def test_an_import_error_whose_text_cannot_be_made_is_told(install):
    body = "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd()"
    install("acme", {"framework.models": {"odd": "acme_odd:odd"}}, {"acme_odd.py": body})
    with pytest.raises(PluginError, match="cannot be imported: Odd: its text cannot be made: ValueError"):
        discover().find("models", "odd", "model").load()


def test_a_thread_that_a_plugin_left_does_not_keep_the_process():
    script = """
import threading, time
from framework.startup import leave_soon
threading.Thread(target=time.sleep, args=(600,), name="uploader").start()
leave_soon(3, patience=0.1)
"""
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (3, "all is done; leaving threads that did not end: uploader\n")
    assert time.monotonic() - began < 600
