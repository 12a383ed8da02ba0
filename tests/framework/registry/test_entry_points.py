"""Entry points to factories: what is found, what is broken, who claims what, and that nothing is imported meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

from framework.commands.plugins import show
from framework.errors import ConfigError, PluginError
from framework.registry.entry_points import discover, normalised
from framework.registry.kinds import KINDS
from framework.testing import message

WIDE = 'def wide(hidden: int = 3):\n    """A wide one."""\n    return hidden\n'

MODULES = {
    "a module that is not there": ("broken_m:wide", None, "ModuleNotFoundError: No module named 'broken_m'"),
    "no target of an import": ("broken m:wide", None, "expected a target such as package.module:factory"),
    "an import that fails": ("broken_m:wide", "import nothing_here", "ModuleNotFoundError"),
    "an import error of its own": ("broken_m:wide", "raise ImportError('no\\nacme')", "ImportError: no acme"),
    "a syntax error": ("broken_m:wide", "def (", "SyntaxError"),
    "an error while importing": ("broken_m:wide", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "an exit while importing": ("broken_m:wide", "raise SystemExit(4)", "SystemExit: 4"),
    "a missing attribute": ("broken_m:wide", "narrow = 1", "AttributeError: module 'broken_m' has no attribute 'wide'"),
    "something that is not callable": ("broken_m:wide", "wide = 1", "expected a callable, found int"),
    "a target that is none": ("not a target!", WIDE, "not a target!"),
}
"""Faults of a plugin: its target, the module's text, and the reason that must be given."""

CATALOGUES = {
    "a module that is not there": (None, "ModuleNotFoundError"),
    "an error": ("def catalogue(): raise OSError('disk')", "OSError: disk"),
    "an exit": ("def catalogue(): raise SystemExit('bye')", "SystemExit: bye"),
    "a list": ("def catalogue(): return ['wide']", "AttributeError: 'list' object has no attribute 'items'"),
    "parameters": ("def catalogue(path): return {}", "TypeError"),
    "no function": ("catalogue = {}", "expected a callable, found dict"),
}
"""Faults of a catalogue: its module's text, and the reason that must be given."""

METADATA = {
    "an entry without a target": ("[framework.models]\nwide\n", ""),
    "text outside a group": ("wide = acme_m:wide\n[framework.models]\nother\n", ""),
    "no METADATA": ("[framework.models]\nwide = acme_m:wide\n", None),
    "a METADATA without a name": ("[framework.models]\nwide = acme_m:wide\n", "Metadata-Version: 2.1\nVersion: 1\n"),
    "a METADATA without a version": ("[framework.models]\nwide = acme_m:wide\n", "Metadata-Version: 2.1\nName: acme\n"),
}
"""Faults of a dist-info folder: its entry_points.txt and its METADATA."""


def install_broken(install, case):
    target, text, reason = MODULES[case]
    files = {} if text is None else {"broken_m.py": text}
    install("broken-jax", {"framework.models": {"broken": target}}, files, version="2.5")
    return reason


def install_good(install, name="acme", module="acme_m"):
    install(name, {"framework.models": {"wide": f"{module}:wide"}}, {f"{module}.py": WIDE})


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_of_every_kind_is_found_by_its_name(install, kind):
    install("acme_jax", {f"framework.{kind}": {"wide": "acme_m:wide"}}, {"acme_m.py": WIDE}, version="0.3")
    plugin = discover().find(kind, "wide", "key")
    assert (plugin.kind, plugin.name, plugin.owner, plugin.target) == (kind, "wide", "acme_jax 0.3", "acme_m:wide")
    assert plugin.load()(hidden=5) == 5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wode", "Did you mean 'wide'?"),
        ("WIDE", "Did you mean 'wide'?"),
        ("wide ", "Did you mean 'wide'?"),
        ("acmee:wide", "Did you mean 'acme:wide'?"),
        ("acme:wode", "Did you mean 'acme:wide'?"),
        ("zzzzzz", "Known: "),
        ("", "Known: "),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_the_known(install, name, told):
    install_good(install)
    with pytest.raises(ConfigError) as raised:
        discover().find("models", name, "model.name")
    text = message(raised)
    assert text.startswith(f"model.name: no model is named '{name}'.")
    assert told in text
    assert "wide" in text.partition("Known: ")[2]
    assert ("Did you mean" in text) == ("Did you mean" in told)


@pytest.mark.parametrize("case", MODULES)
def test_a_broken_plugin_says_who_and_why_when_it_is_named(install, case):
    reason = install_broken(install, case)
    with pytest.raises(PluginError) as raised:
        discover().find("models", "broken", "model").load()
    assert raised.value.exit_code == 3
    text = message(raised)
    assert text.startswith(f"model 'broken' (broken-jax 2.5, {MODULES[case][0]}) ")
    assert reason in text


@pytest.mark.parametrize("case", MODULES)
def test_a_broken_plugin_disturbs_nobody_who_does_not_name_it(install, case):
    install_broken(install, case)
    install_good(install)
    assert discover().find("models", "wide", "model").load()() == 3


def test_an_interrupt_while_importing_is_not_swallowed(install):
    install("acme", {"framework.models": {"slow": "slow_m:slow"}}, {"slow_m.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        discover().find("models", "slow", "model").load()


@pytest.mark.parametrize("case", CATALOGUES)
def test_a_broken_catalogue_disturbs_nobody_and_is_told_when_a_name_is_missing(install, case):
    text, reason = CATALOGUES[case]
    files = {} if text is None else {"broken_c.py": text}
    install("broken", {"framework.models.catalogue": {"all": "broken_c:catalogue"}}, files, version="2.5")
    install_good(install)
    registry = discover()
    assert registry.find("models", "wide", "model").load()() == 3
    with pytest.raises(ConfigError) as raised:
        registry.find("models", "narrow", "model")
    text = message(raised)
    assert "model 'all catalogue' (broken 2.5, broken_c:catalogue)" in text
    assert reason in text


@pytest.mark.parametrize("case", METADATA)
def test_a_damaged_distribution_disturbs_nobody_and_is_told(install, case):
    entry_points, metadata = METADATA[case]
    folder = install("damaged", entry_points, metadata=metadata)
    install_good(install)
    registry = discover()
    assert registry.find("models", "wide", "model").load()() == 3
    (error,) = registry.broken
    assert str(folder / "damaged-1.0.dist-info") in str(error)
    with pytest.raises(ConfigError, match="dist-info"):
        registry.find("models", "narrow", "model")


@pytest.mark.parametrize("chosen", ["acme-jax:wide", "ACME_jax:wide", "acme.JAX:wide", "acme--_jax:wide"])
def test_a_name_that_two_distributions_claim_needs_choosing(install, chosen):
    install_good(install, "acme-jax", "acme_m")
    install("other", {"framework.models": {"wide": "other_m:wide"}}, {"other_m.py": "def wide(): return 'other'"})
    registry = discover()
    with pytest.raises(ConfigError) as raised:
        registry.find("models", "wide", "model.name")
    text = message(raised)
    assert text.startswith("model.name: 2 distributions register the model 'wide'; choose ")
    assert "'acme-jax:wide'" in text
    assert "'other:wide'" in text
    assert registry.find("models", chosen, "model").distribution == "acme-jax"
    assert registry.find("models", "other:wide", "model").load()() == "other"


def test_a_broken_claimant_does_not_hand_the_name_to_the_other(install):
    install_good(install)
    install("other", {"framework.models": {"wide": "nowhere_m:wide"}})
    with pytest.raises(ConfigError, match="choose"):
        discover().find("models", "wide", "model")
    assert discover().find("models", "acme:wide", "model").load()() == 3


CATALOGUE = (
    "def narrow():\n    'A narrow one.'\n    return 'catalogue'\n"
    "def catalogue(): return {'narrow': narrow, 'wide': narrow}\n"
)


def test_a_catalogue_registers_what_it_holds(install):
    install("acme", {"framework.layers.catalogue": {"all": "acme_c:catalogue"}}, {"acme_c.py": CATALOGUE})
    plugin = discover().find("layers", "narrow", "model.layers[0]")
    assert (plugin.name, plugin.owner, plugin.target) == ("narrow", "acme 1.0", "acme_c:catalogue")
    assert plugin.load()() == "catalogue"
    assert discover().find("layers", "acme:narrow", "model.layers[0]").load()() == "catalogue"


def test_an_entry_point_beats_the_catalogue_of_its_distribution(install):
    entry_points = {
        "framework.models": {"wide": "acme_m:wide"},
        "framework.models.catalogue": {"all": "acme_c:catalogue"},
    }
    install("acme", entry_points, {"acme_m.py": WIDE, "acme_c.py": CATALOGUE})
    assert discover().find("models", "wide", "model").load()() == 3
    assert discover().find("models", "narrow", "model").load()() == "catalogue"
    assert [plugin.name for plugin in discover().every("models") if plugin.distribution == "acme"] == ["narrow", "wide"]


def test_an_entry_point_and_the_catalogue_of_another_distribution_need_choosing(install):
    install_good(install)
    install("other", {"framework.models.catalogue": {"all": "other_c:catalogue"}}, {"other_c.py": CATALOGUE})
    with pytest.raises(ConfigError, match="choose") as raised:
        discover().find("models", "wide", "model")
    assert "'acme:wide'" in message(raised)
    assert "'other:wide'" in message(raised)
    assert discover().find("models", "other:wide", "model").load()() == "catalogue"


def test_a_catalogue_is_read_once_and_anew_when_something_was_installed(install):
    counting = f"reads = []\n{CATALOGUE}"
    counting = counting.replace("def catalogue(): return", "def catalogue():\n    reads.append(0)\n    return")
    install("acme", {"framework.models.catalogue": {"all": "acme_c:catalogue"}}, {"acme_c.py": counting})
    registry = discover()  # importing may write bytecode into a folder of the path, whose change is noticed
    for _ in range(3):
        assert registry.find("models", "narrow", "model").load()() == "catalogue"
        assert registry.find("models", "acme:wide", "model").name == "wide"
    assert len(sys.modules["acme_c"].reads) == 1
    install_good(install, "other", "other_m")
    assert discover().find("models", "other:wide", "model").load()() == 3


def test_a_catalogue_may_hold_something_broken_beside_something_whole(install):
    text = "def narrow(): return 1\ndef catalogue(): return {'narrow': narrow, 'number': 3}"
    install("acme", {"framework.models.catalogue": {"all": "acme_c:catalogue"}}, {"acme_c.py": text})
    assert discover().find("models", "narrow", "model").load()() == 1
    with pytest.raises(PluginError, match=r"model 'number' \(acme 1\.0, acme_c:catalogue\) .* found int"):
        discover().find("models", "number", "model").load()


def test_a_distribution_that_claims_a_name_twice_is_told_so(install):
    entry_points = {"framework.models.catalogue": {"one": "acme_c:catalogue", "two": "acme_c:catalogue"}}
    install("acme", entry_points, {"acme_c.py": CATALOGUE})
    with pytest.raises(PluginError, match=r"acme 1\.0 registers the model 'narrow' twice"):
        discover().find("models", "narrow", "model")


def test_a_distribution_that_stands_on_the_path_twice_counts_once(install):
    install("acme", {"framework.models": {"wide": "old_m:wide"}}, {"old_m.py": "def wide(): return 'old'"})
    install("ACME", {"framework.models": {"wide": "acme_m:wide"}}, {"acme_m.py": WIDE}, version="2.0")
    plugin = discover().find("models", "wide", "model")
    assert plugin.version == "2.0"
    assert plugin.load()() == 3


def test_groups_of_others_are_not_ours(install):
    install("acme", {"frameworks.models": {"wide": "acme_m:wide"}, "framework": {"deep": "acme_m:wide"}})
    names = {plugin.name for kind in KINDS for plugin in discover().named(kind)}
    assert not names & {"wide", "deep"}


def test_discovering_and_naming_import_nothing_and_choosing_imports_only_the_chosen(install):
    for name in ("acme", "other"):
        install(name, {"framework.data": {name: f"{name}_m:wide"}}, {f"{name}_m.py": WIDE})
    registry = discover()
    assert {"acme", "other"} <= {plugin.name for plugin in registry.named("data")}
    plugin = registry.find("data", "acme", "data")
    assert not {"acme_m", "other_m"} & set(sys.modules)
    plugin.load()
    assert "acme_m" in sys.modules
    assert "other_m" not in sys.modules


def test_discovering_imports_neither_jax_nor_hydra():
    code = (
        "import sys; from framework.registry.entry_points import discover, KINDS; r = discover();"
        "[r.named(kind) for kind in KINDS];"
        "assert not {'jax', 'numpy', 'hydra', 'omegaconf', 'optax'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("written", "same"), [("Acme.JAX", "acme-jax"), ("acme__jax", "acme-jax"), ("a-_.b", "a-b"), ("acmejax", "acmejax")]
)
def test_distribution_names_are_compared_as_pip_does(written, same):
    assert normalised(written) == same


@pytest.mark.parametrize("case", MODULES)
def test_the_listing_shows_a_broken_plugin_with_its_reason_beside_the_others(install, case):
    reason = install_broken(install, case)
    install_good(install)
    lines = show(["models"]).splitlines()
    (line,) = [line for line in lines if line.split()[:1] == ["broken"]]
    assert "BROKEN" in line
    assert reason in line
    assert any(line.split()[:3] == ["wide", "acme", "1.0"] for line in lines)
