"""The shape of the code: who imports whom, and how large files, functions and signatures are."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = [
    {"errors"},
    {
        "contracts",
        "documents",
        "garbage",
        "keys",
        "masking",
        "mean",
        "memory",
        "once",
        "options",
        "prefetch",
        "registry",
        "settings",
        "signals",
        "sizes",
    },
    {"processes"},
    {"adapters", "agreement", "chunks", "packing", "places", "policy", "sharing"},
    {"api"},
    {"around", "guard"},
    {"averaging", "build", "compilation", "config", "debug", "population", "precision", "record", "stepping"}
    | {"footprint", "hooks", "leaves"},
    {"files", "pieces"},
    {"manifest"},
    {"store"},
    {"jointly"},
    {"steps", "checkpoint", "listing", "measuring", "members", "overrides", "resuming", "search", "watchdog"}
    | {"shapes"},
    {"strategies.eager", "strategies.jit", "strategies.pmap", "strategies.sharded", "strategies.vmapped"},
    {"loop", "origins", "trained"},
    {"compose"},
    {"facts"},
    {"training"},
    {"runner", "timing"},
    {"bench"},
    {"batch_size", "python"},
    {"benching"},
    {"verification.trail", "verification.witness"},
    {"verification.attempts", "verification.comparing", "verification.verdict"},
    {"verification.findings"},
    {"verify"},
    {"verifying"},
    {"cli", "__init__"},
    {"__main__"},
]
"""A file imports only from floors below its own."""

FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}

PLUGINS_MAY = {"framework.api", "framework.errors"}
"""What of the core a plugin may import. The strategies and checkpoints that ship inside the core keep to it too."""

LINES, FUNCTION_LINES, PARAMETERS = 250, 40, 7


def modules(folder):
    """Files of a package by dotted name below it; empty `__init__.py` are left out."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return {".".join(path.relative_to(ROOT / folder).with_suffix("").parts): path for path in paths if path.read_text()}


def imports(path):
    """Dotted names of all that a file imports, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import of {node.module}"
            imported = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= imported & {f"framework.{name}" for name in CORE} or {node.module}
    return found


CORE = modules("framework")
PLUGINS = {path: path.relative_to(ROOT / "plugins").parts[0] for path in sorted((ROOT / "plugins").rglob("*.py"))}
SOURCES = [path for folder in ("framework", "plugins", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def label(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


def test_every_file_of_the_core_has_its_floor():
    assert set(CORE) == set(FLOOR)


@pytest.mark.parametrize("name", CORE)
def test_a_file_of_the_core_imports_only_from_lower_floors(name):
    used = {module.removeprefix("framework.") for module in imports(CORE[name]) if is_of(module, "framework")}
    assert used <= set(FLOOR), f"{name} imports {used - set(FLOOR)}"
    wrong = {module: FLOOR[module] for module in used if FLOOR[module] >= FLOOR[name]}
    assert not wrong, f"{name} on floor {FLOOR[name]} imports {wrong}"


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_plugin(name):
    used = imports(CORE[name])
    assert not {module for module in used if module.startswith(("framework_", "plugins", "benchmarks", "tests"))}


@pytest.mark.parametrize("name", [name for name in CORE if name.startswith("strategies.")])
def test_the_cores_own_plugins_keep_to_the_contracts(name):
    used = {module for module in imports(CORE[name]) if is_of(module, "framework")}
    assert used <= PLUGINS_MAY


@pytest.mark.parametrize("path", PLUGINS, ids=label)
def test_a_plugin_imports_the_contracts_its_own_package_and_libraries(path):
    own = PLUGINS[path]
    used = imports(path)
    ours = {module for module in used if is_of(module, "framework")}
    assert ours <= PLUGINS_MAY
    others = {module for module in used if module.startswith("framework_") and not is_of(module, own)}
    assert not others
    assert not {module for module in used if is_of(module, "benchmarks") or is_of(module, "tests")}


@pytest.mark.parametrize("package", sorted(set(PLUGINS.values())))
def test_the_init_of_a_plugin_package_is_empty(package):
    assert (ROOT / "plugins" / package / "__init__.py").read_text() == ""


def test_plugins_are_a_shelf_and_not_a_package():
    assert not (ROOT / "plugins" / "__init__.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_files_functions_and_signatures_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {function.name: length(function) for function in functions if length(function) > FUNCTION_LINES}
    assert not long
    wide = {function.name: width(function) for function in functions if width(function) > PARAMETERS}
    assert not wide


def is_of(module, package):
    return module == package or module.startswith(f"{package}.")


def length(function):
    """Lines from `def` to the last, without the docstring."""
    first = function.body[0]
    is_docstring = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if is_docstring else 0)


def width(function):
    """Parameters, without `self` and `cls`."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return sum(argument is not None and argument.arg not in ("self", "cls") for argument in every)


def test_the_floors_see_what_they_should(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import framework.loop\nfrom framework import store, errors as e\nfrom framework.api import Model\n"
        "def f():\n    '''Text\n    of two lines.'''\n    from framework.runner import run\n    return run\n"
        "class C:\n    def g(self, a, /, b, *c, d, **e): ...\n"
    )
    expected = {"framework.loop", "framework.store", "framework.errors", "framework.api", "framework.runner"}
    assert imports(file) == expected
    functions = {node.name: node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}
    assert {name: (length(node), width(node)) for name, node in functions.items()} == {"f": (3, 0), "g": (1, 5)}


def declared():
    """Import names of the declared dependencies; PyYAML is omegaconf's, whose errors it passes on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    packages |= {re.match(r"[\w-]+", requirement)[0] for requirement in project["optional-dependencies"]["orbax"]}
    names = {"hydra-core": "hydra", "orbax-checkpoint": "orbax"}
    return {names.get(package, package) for package in packages} | {"yaml"}


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.is_relative_to(ROOT / "benchmarks")], ids=label)
def test_the_package_imports_only_the_libraries_that_it_declares(path):
    used = {module.partition(".")[0] for module in imports(path)}
    others = used - declared() - set(sys.stdlib_module_names)
    assert not {module for module in others if not module.startswith("framework")}
