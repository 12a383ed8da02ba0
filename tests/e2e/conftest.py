"""Wheels built from the sources, and fresh environments that hold them and what they declare to need, nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "framework", "plugins", "conf", "tests", "benchmarks")


class Environment(NamedTuple):
    """A virtual environment. Commands in it see neither this one's packages nor its variables."""

    folder: Path

    def run(self, *command, cwd):
        """Run a program of the environment, such as `python` or a console script, in a folder."""
        programs = self.folder / "bin"
        variables = {
            "PATH": os.pathsep.join([str(programs), os.defpath]),
            "HOME": str(self.folder),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        }
        words = [str(programs / command[0]), *command[1:]]
        return subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=1200, check=False)

    def pip(self, *words):
        """Run this interpreter's pip on the environment, without the network."""
        return pip("--python", self.folder / "bin" / "python", *words)

    def install(self, wheel):
        """Install a wheel, and nothing that it depends on."""
        self.pip("install", "--no-deps", "--no-index", wheel)

    def files(self):
        """Everything in the environment but bytecode."""
        return {path for path in self.folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A copy of the project, for setuptools leaves a build folder where it builds, and takes up an older one."""
    return copy(SOURCES, ROOT, tmp_path_factory.mktemp("framework"))


@pytest.fixture(scope="session")
def wheel(sources):
    """The wheel of framework."""
    return build(sources)


@pytest.fixture(scope="session")
def hello_wheel(tmp_path_factory):
    """The wheel of the third party's project."""
    project = ROOT / "tests" / "third_party" / "framework_hello"
    return build(copy(("pyproject.toml", "README.md", "src"), project, tmp_path_factory.mktemp("framework_hello")))


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory):
    """Make an environment that holds framework's declared dependencies, as they are installed here, and some wheels."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    def make(*wheels):
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, symlinks=True)
        (site_packages,) = folder.glob("lib/python*/site-packages")
        for found in needed(declared):
            link(found, site_packages)
        environment = Environment(folder)
        for each in wheels:
            environment.install(each)
        return environment

    return make


def copy(names: Iterable[str], source: Path, target: Path) -> Path:
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif (source / name).exists():
            shutil.copy(source / name, target)
    return target


def build(project: Path) -> Path:
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", project / "dist", project)
    (built,) = (project / "dist").glob("*.whl")
    return built


def pip(*words):
    """Run pip, apart from the user's settings and from a PYTHONPATH, on which it would find framework installed."""
    command = [sys.executable, "-m", "pip", "--isolated", *map(str, words)]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def needed(requirements: Iterable[str]) -> list[Distribution]:
    """The installed distributions that requirements lead to, directly or not, leaving out extras."""
    waiting, found = list(requirements), {}
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[name] = distribution(name)
            waiting += found[name].requires or ()
    return list(found.values())


def link(found: Distribution, site_packages: Path) -> None:
    """Make a distribution importable elsewhere, with its metadata, by links to its top-level files and folders."""
    for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (site_packages / name).exists():  # namespace packages, such as google, belong to several
            (site_packages / name).symlink_to(Path(str(found.locate_file(name))).resolve())
